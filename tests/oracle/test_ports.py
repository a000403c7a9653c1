"""Where the oracle listens; what listens on every address does so in a network of its own."""

import shutil
import subprocess
import sys

import pytest

_LISTEN = """
import socket, subprocess, sys
import trio
from agentproxy.oracle.config import parse_address
from agentproxy.oracle.ports import bound

async def main():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    listeners = await bound(parse_address(sys.argv[1]))
    for host in ("127.0.0.1", "::1"):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as client:
            print(host, "refused" if client.connect_ex((host, 7443)) else "answers")
    for listener in listeners:
        await listener.aclose()

trio.run(main)
"""


def _can_make_networks() -> bool:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    return subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not _can_make_networks(), reason="making network namespaces needs root")
@pytest.mark.parametrize(
    ("listen", "v4", "v6"),
    [
        ("[::]:7443", "answers", "answers"),
        ("0.0.0.0:7443", "answers", "refused"),
        ("127.0.0.1:7443", "answers", "refused"),
        ("[::1]:7443", "refused", "answers"),
    ],
)
def test_two_colons_are_every_address_and_others_are_what_they_say(listen: str, v4: str, v6: str) -> None:
    command = ["unshare", "--net", sys.executable, "-c", _LISTEN, listen]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [f"127.0.0.1 {v4}", f"::1 {v6}"]
