"""deployment/firewall/ in network namespaces: an oracle's host, a build server, and somebody else."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentproxy.admin.statedirectory import Wanted
from agentproxy.oracle.config import parse_address

FILES = Path(__file__).parents[2] / "deployment" / "firewall"
SECONDS = 20
NOBODY = 65534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces of our own need root")

_ADDRESSES = {
    "runner": ("192.0.2.10/24", "2001:db8::10/64"),
    "other": ("198.51.100.10/24", "2001:db8:1::10/64"),
}
_ORACLE = {"runner": ("192.0.2.1", "2001:db8::1"), "other": ("198.51.100.1", "2001:db8:1::1")}
# Connects to each HOST PORT of its arguments and says what came of it.
_CONNECT = """
import encodings.idna, os, socket, sys  # all before the user changes, who may not read our Python
os.setuid(int(sys.argv[1]))
for host, port in zip(sys.argv[2::2], sys.argv[3::2]):
    try:
        with socket.create_connection((host, int(port)), timeout=15) as connection:
            print(connection.recv(2).decode())
    except OSError as error:
        print(type(error).__name__)
"""
_LISTEN = """
import selectors, socket, sys
selector = selectors.DefaultSelector()
for port in sys.argv[1:]:
    server = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
    selector.register(server, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in selector.select():
        connection, _ = key.fileobj.accept()
        connection.sendall(b"hi")
        connection.close()
"""


def run(*words: str | Path) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


class Hosts:
    """Three namespaces; the oracle's is joined with each of the others."""

    def __init__(self) -> None:
        self.prefix = f"bo{os.getpid()}"
        self.oracle = f"{self.prefix}-oracle"

    def name(self, host: str) -> str:
        return f"{self.prefix}-{host}"

    def make(self) -> None:
        run("ip", "netns", "add", self.oracle)
        run("ip", "-n", self.oracle, "link", "set", "lo", "up")
        for host, addresses in _ADDRESSES.items():
            name = self.name(host)
            run("ip", "netns", "add", name)
            peer = ("peer", "name", "eth0", "netns", name)
            run("ip", "link", "add", f"to-{host}", "netns", self.oracle, "type", "veth", *peer)
            run("ip", "-n", name, "link", "set", "eth0", "up")
            run("ip", "-n", self.oracle, "link", "set", f"to-{host}", "up")
            for address, own in zip(addresses, _ORACLE[host], strict=True):
                # No duplicate address detection: it takes a second in which nothing can be reached.
                flags = ("nodad",) if ":" in address else ()
                run("ip", "-n", name, "address", "add", address, "dev", "eth0", *flags)
                length = address.partition("/")[2]
                run("ip", "-n", self.oracle, "address", "add", f"{own}/{length}", "dev", f"to-{host}", *flags)

    def remove(self) -> None:
        for name in (self.oracle, *map(self.name, _ADDRESSES)):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=SECONDS, check=False)

    def inside(self, name: str, *words: str | Path) -> list[str]:
        return ["ip", "netns", "exec", name, *map(str, words)]

    def connect(self, host: str, *ports: int) -> list[str]:
        """What came of a connection from `host` to each of the oracle's ports, by IPv4 and by IPv6."""
        own = self.oracle if host == "oracle" else self.name(host)
        there = ("127.0.0.1", "::1") if host == "oracle" else _ORACLE[host]
        return self.connect_as(0, own, [(address, port) for port in ports for address in there])

    def connect_as(self, uid: int, name: str, targets: list[tuple[str, int]]) -> list[str]:
        """What came of connections that a user makes in a namespace."""
        words = [str(word) for target in targets for word in target]
        return run(*self.inside(name, sys.executable, "-c", _CONNECT, str(uid), *words)).split()

    @contextmanager
    def listening(self, name: str, *ports: int) -> Iterator[None]:
        command = self.inside(name, sys.executable, "-c", _LISTEN, *map(str, ports))
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            try:
                yield
            finally:
                server.kill()


@pytest.fixture(name="made", scope="module")
def made_hosts() -> Iterator[Hosts]:
    hosts = Hosts()
    try:
        hosts.make()
        with hosts.listening(hosts.oracle, 7443, 7444, 22):
            yield hosts
    finally:
        hosts.remove()


@pytest.fixture
def hosts(made: Hosts) -> Hosts:
    """Without any rules yet: no test stands on what another has loaded."""
    run(*made.inside(made.oracle, "nft", "flush", "ruleset"))
    return made


def rules(name: str) -> str:
    """A file with uids in the place of names: this host has no such users."""
    text = (FILES / name).read_text()
    return re.sub(r'skuid "blind-oracle-\w+"', f"skuid {NOBODY}", text)


def load(hosts: Hosts, name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(rules(name))
    run(*hosts.inside(hosts.oracle, "nft", "-f", file))


def test_only_build_servers_reach_the_oracle_s_ports(hosts: Hosts, tmp_path: Path) -> None:
    assert hosts.connect("other", 7443) == ["hi", "hi"]  # or the rest would show nothing
    for _ in range(2):  # loading it again replaces it
        load(hosts, "oracle.nft", tmp_path)
        assert hosts.connect("runner", 7443, 7444, 22) == ["hi"] * 6
        assert hosts.connect("other", 7443, 7444) == ["ConnectionRefusedError"] * 4
        assert hosts.connect("other", 22) == ["hi", "hi"]
        assert hosts.connect("oracle", 7443) == ["hi", "hi"]
    counters = run(*hosts.inside(hosts.oracle, "nft", "list", "counter", "inet", "blind_oracle", "refused"))
    assert int(re.search(r"packets (\d+)", counters)[1]) >= 4  # type: ignore[index]  # it always says


def test_the_signer_s_user_reaches_nobody(hosts: Hosts, tmp_path: Path) -> None:
    load(hosts, "oracle.nft", tmp_path)
    outside = [(address.partition("/")[0], 22) for address in _ADDRESSES["runner"]]
    with hosts.listening(hosts.name("runner"), 22):
        assert hosts.connect_as(0, hosts.oracle, outside) == ["hi", "hi"]
        assert hosts.connect_as(NOBODY, hosts.oracle, outside) == ["ConnectionRefusedError"] * 2
        assert hosts.connect_as(NOBODY, hosts.oracle, [("127.0.0.1", 7443)]) == ["hi"]


def test_the_tunnel_s_user_opens_no_tcp_but_its_own_way_out(hosts: Hosts, tmp_path: Path) -> None:
    load(hosts, "relay.nft", tmp_path)
    outside = [(_ADDRESSES["runner"][0].partition("/")[0], port) for port in (22, 80)]
    with hosts.listening(hosts.name("runner"), 22, 80):
        assert hosts.connect_as(0, hosts.oracle, outside) == ["hi", "hi"]
        assert hosts.connect_as(NOBODY, hosts.oracle, outside) == ["hi", "ConnectionRefusedError"]


@pytest.mark.parametrize("name", ["oracle.nft", "relay.nft"])
def test_nft_takes_every_file(name: str, hosts: Hosts, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(rules(name))
    run(*hosts.inside(hosts.oracle, "nft", "-c", "-f", file))


def test_the_relay_s_port_is_the_one_that_init_writes() -> None:
    (ports,) = re.findall(r"^define ports = \{ ([\d, ]+) \}$", (FILES / "oracle.nft").read_text(), re.MULTILINE)
    assert str(parse_address(Wanted("n", ("h",)).listen).port) in ports.split(", ")
