"""The plain application that the HTTP API is measured against: the same framework, and hypercorn's own trio server.

It signs what it is sent with a key of its own, in its one process: no policy, no limits, no record, no other process.

usage: python -I plain_api.py FD CERTIFICATE KEY AUTHORITY         FD: the listening socket, passed on
"""

import ssl
import sys
import time
from typing import Annotated

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI, Header
from hypercorn.config import Config
from hypercorn.trio import serve
from pydantic import BaseModel


class _Asked(BaseModel):
    repodata_hash: str


class _Signed(BaseModel):
    signature: str
    timestamp: int


def _application() -> FastAPI:
    application = FastAPI()
    key = Ed25519PrivateKey.generate()

    async def sign(asked: _Asked, authorization: Annotated[str, Header()]) -> _Signed:
        await trio.lowlevel.checkpoint()  # it must be a coroutine: anything else would go to a thread
        signature = key.sign(f"{authorization} {asked.repodata_hash}".encode())
        return _Signed(signature=signature.hex(), timestamp=int(time.time()))

    application.post("/sign/repodata")(sign)
    return application


async def _serve(descriptor: str, certificate: str, key: str, authority: str) -> None:
    config = Config()
    config.bind = [f"fd://{descriptor}"]
    config.certfile, config.keyfile, config.ca_certs = certificate, key, authority
    config.verify_mode = ssl.CERT_REQUIRED
    config.alpn_protocols = ["http/1.1"]
    config.errorlog = None
    # Its connections wait while the other side is measured, and are never renewed.
    config.keep_alive_timeout, config.keep_alive_max_requests = 3600.0, 1_000_000_000
    await serve(_application(), config)


if __name__ == "__main__":
    trio.run(_serve, *sys.argv[1:])
