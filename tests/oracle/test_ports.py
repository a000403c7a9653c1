"""Where the oracle listens; what listens on every address does so in a network of its own."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from agentproxy.oracle.config import parse_address
from agentproxy.oracle.ports import bound
from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.metricsconfig import MetricsConfig
from agentproxy.runtime.scrape import open_metrics

SYSTEMD = Path(__file__).parents[2] / "systemd"

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


class OnlyUnixSockets(trio.abc.SocketFactory):
    """What `RestrictAddressFamilies=AF_UNIX` in the oracle's unit leaves."""

    def socket(self, family: int = -1, type: int = -1, proto: int = -1) -> trio.socket.SocketType:  # noqa: A002  trio's
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT), (family, type, proto))


@pytest.mark.parametrize(
    ("unit", "opened"),
    [
        ("blind-oracle.socket", lambda: bound(parse_address("127.0.0.1:7443"))),
        ("blind-oracle-http.socket", lambda: bound(parse_address("127.0.0.1:7444"), "http.listen")),
        ("blind-oracle-metrics.socket", lambda: open_metrics(MetricsConfig(listen="127.0.0.1:9464"))),
    ],
)
async def test_in_the_unit_s_sandbox_the_hint_names_the_socket_unit_that_opens_the_port(
    unit: str, opened: Callable[[], Awaitable[object]]
) -> None:
    assert "\nRestrictAddressFamilies=AF_UNIX\n" in (SYSTEMD / "blind-oracle.service").read_text()
    assert (SYSTEMD / unit).is_file()
    trio.socket.set_custom_socket_factory(OnlyUnixSockets())

    with pytest.raises(ConfigError, match=r"cannot use 127\.0\.0\.1:\d+") as refused:
        await opened()

    assert f"systemctl enable {unit}, then restart" in refused.value.hint
