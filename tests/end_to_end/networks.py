"""Hosts with networks of their own, joined by a router that can lose everything: namespaces of this kernel."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Network", "can_make_networks", "joined"]


def can_make_networks() -> bool:
    """Whether we may; a container without CAP_SYS_ADMIN may not."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True).returncode == 0


@dataclass(frozen=True, slots=True)
class Network:
    """Hosts by their names; each has the address 10.77.N.2, where N is its place."""

    names: tuple[str, ...]
    holders: dict[str, int]  # pids of processes that keep the namespaces, the router's among them

    def address(self, name: str) -> str:
        return f"10.77.{self.names.index(name)}.2"

    def inside(self, name: str) -> list[str]:
        """The words before a command that is to run on a host."""
        return ["nsenter", f"--net=/proc/{self.holders[name]}/ns/net", "--"]

    def run(self, name: str, *words: str) -> None:
        subprocess.run([*self.inside(name), *words], check=True, capture_output=True)

    @contextmanager
    def cut(self) -> Iterator[None]:
        """The router forwards nothing and says nothing; every link stays up, as behind a dead switch."""
        self._forward(on=False)
        try:
            yield
        finally:
            self._forward(on=True)

    @contextmanager
    def cut_off(self, name: str) -> Iterator[None]:
        """Nothing reaches this host, and nobody is told."""
        self.run("router", "ip", "route", "add", "blackhole", self.address(name))
        try:
            yield
        finally:
            self.run("router", "ip", "route", "del", "blackhole", self.address(name))

    def _forward(self, *, on: bool) -> None:
        self.run("router", "sh", "-c", f"echo {int(on)} >/proc/sys/net/ipv4/ip_forward")


@contextmanager
def joined(*names: str) -> Iterator[Network]:
    """Make hosts, and a router between them; afterwards the namespaces are gone with their last process."""
    holders: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in (*names, "router"):
            holders[name] = _holder()
        network = Network(names, {name: holder.pid for name, holder in holders.items()})
        for name in names:
            _join(network, name)
        network._forward(on=True)
        yield network
    finally:
        for holder in holders.values():
            holder.kill()
            with holder:  # its pipes are closed
                pass


def _holder() -> subprocess.Popen[bytes]:
    """A process in a new network namespace, which says that it is there, and ends with its input."""
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec cat >/dev/null"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"\n"
    holder.stdout.close()
    return holder


def _join(network: Network, name: str) -> None:
    number = network.names.index(name)
    near, far = f"to{number}", "eth0"
    commands: Sequence[tuple[str, str]] = [
        ("router", f"ip link add {near} type veth peer name {far} netns {network.holders[name]}"),
        ("router", f"ip address add 10.77.{number}.1/24 dev {near}"),
        ("router", f"ip link set {near} up"),
        (name, f"ip address add {network.address(name)}/24 dev {far}"),
        (name, f"ip link set {far} up"),
        (name, "ip link set lo up"),
        (name, f"ip route add default via 10.77.{number}.1"),
    ]
    for host, command in commands:
        network.run(host, *command.split())
