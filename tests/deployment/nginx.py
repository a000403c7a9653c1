"""The real nginx with the files of deployment/nginx; only what they leave to the site is written here."""

import os
import pwd
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from agentproxy.admin.dev.ports import free_ports

FILES = Path(__file__).parents[2] / "deployment" / "nginx"
SECONDS = 20.0
_MAIN = """
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off; master_process on; worker_processes 1; pid {root}/nginx.pid; {user}
error_log {root}/main.log warn;
events {{ worker_connections {connections}; }}
http {{
  client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;
  uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
  include blind-oracle/api.conf;
}}
stream {{ {limits} include blind-oracle/relay.conf; }}
"""
_API_SITE = """
listen 127.0.0.1:{port} ssl;
server_name localhost;
ssl_certificate {certificates}/server.crt;
ssl_certificate_key {certificates}/server.key;
ssl_client_certificate {certificates}/authority.crt;
access_log {root}/access.log blind_oracle_api;
error_log {root}/error.log warn;
"""


def _limits() -> str:
    """The lines against strangers that relay.conf only proposes."""
    found = re.findall(r"^# +(limit_conn.*;)", (FILES / "relay.conf").read_text(), re.MULTILINE)
    assert [line.split()[0] for line in found] == ["limit_conn_zone", "limit_conn"]
    return " ".join(found)


@dataclass(frozen=True, slots=True)
class Nginx:
    root: Path
    api: str  # host:port
    relay: str

    def log(self) -> str:
        """Everything that it wrote."""
        return "".join(path.read_text() for path in sorted(self.root.glob("*.log")))

    def requests(self) -> list[str]:
        """Its access log's lines."""
        return (self.root / "access.log").read_text().splitlines()


def _write(
    root: Path, certificates: Path, proxy_socket: Path, oracle: str, ports: tuple[int, int], *, connections: int
) -> None:
    parts = root / "blind-oracle"
    parts.mkdir()
    for name in ("api.conf", "relay.conf"):
        (parts / name).symlink_to(FILES / name)
    (parts / "api-site.conf").write_text(_API_SITE.format(port=ports[0], root=root, certificates=certificates))
    upstream = (FILES / "blind-oracle" / "api-upstream.conf").read_text()
    assert "unix:/run/blind-oracle/http-proxy.sock" in upstream
    (parts / "api-upstream.conf").write_text(upstream.replace("/run/blind-oracle/http-proxy.sock", str(proxy_socket)))
    (parts / "relay-site.conf").write_text(f"listen 127.0.0.1:{ports[1]};\n")
    (parts / "relay-upstream.conf").write_text(f"server {oracle};\n")
    user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
    main = _MAIN.format(root=root, user=user, limits=_limits(), connections=connections)
    (root / "nginx.conf").write_text(main)


@asynccontextmanager
async def nginx(
    root: Path, certificates: Path, proxy_socket: Path, oracle: str, *, connections: int = 512
) -> AsyncIterator[Nginx]:
    """Run it until the end of the block.

    Args:
        root: an empty directory.
        certificates: where server.crt, server.key and authority.crt are.
        proxy_socket: of the oracle's API.
        oracle: host:port of the relays' port.
        connections: that it has for all, clients and oracles.
    """
    api, relay = free_ports(2)
    ports = api, relay
    _write(root, certificates, proxy_socket, oracle, ports, connections=connections)
    command = ["nginx", "-e", str(root / "start.log"), "-p", str(root), "-c", str(root / "nginx.conf")]
    process = await trio.lowlevel.open_process(command)
    try:
        with trio.fail_after(SECONDS):
            while not await _listens(ports):
                assert process.poll() is None, (root / "start.log").read_text()
                await trio.sleep(0.02)
        yield Nginx(root, f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")
    finally:
        process.terminate()
        with trio.move_on_after(SECONDS, shield=True):
            await process.wait()


async def _listens(ports: tuple[int, int]) -> bool:
    try:
        for port in ports:
            (await trio.open_tcp_stream("127.0.0.1", port)).socket.close()
    except OSError:
        return False
    return True
