"""Ports that a system in a directory gets: its own, and none that the kernel gives to others meanwhile."""

import socket
from pathlib import Path

import pytest

from agentproxy.admin.dev import ports
from agentproxy.admin.dev.ports import free_ports
from agentproxy.protocol.errors import ConfigError


def test_they_differ_are_free_and_not_given_to_outgoing_connections() -> None:
    found = free_ports(20)
    assert len(set(found)) == 20
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(found) < max(first, 32_768)
    for port in found:
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_one_that_somebody_listens_on_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = free_ports(2)
    with socket.create_server(("127.0.0.1", first)):
        monkeypatch.setattr("secrets.SystemRandom.sample", lambda *_, **__: [first, second])
        assert ports.free_ports(1) == [second]
        with pytest.raises(ConfigError, match="no 2 free ports"):
            ports.free_ports(2)
