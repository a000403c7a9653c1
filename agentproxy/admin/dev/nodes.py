"""Further oracles of a dev system: each has a state directory, with the authority, registry and keys of the first."""

import shutil
from pathlib import Path

from agentproxy.admin.dev.place import Place
from agentproxy.admin.layout import Layout
from agentproxy.admin.statedirectory import Wanted, create

__all__ = ["HOSTS", "add_nodes", "first_node"]

HOSTS = ("127.0.0.1", "::1", "localhost")


def first_node(place: Place, ports: list[int]) -> Layout:
    """Make the state directory of the first oracle, which is the dev system's own directory."""
    wanted = Wanted("dev", HOSTS, _address(ports[0]), other_oracles=_others(ports, 0))
    return create(place.root, wanted, note=place.making.name)


def add_nodes(place: Place, ports: list[int]) -> None:
    """Make the other oracles, once the first one has its keys.

    On hosts of their own they would share the registry by PostgreSQL, and the policy by git.
    """
    first = place.layout
    for number in range(1, len(ports)):
        wanted = Wanted(
            f"dev-{number + 1}",
            HOSTS,
            _address(ports[number]),
            registry_file=first.registry,
            authority=first.signer,
            other_oracles=_others(ports, number),
        )
        layout = create(place.node(number), wanted)
        layout.policy.unlink()
        layout.policy.symlink_to(Path("..") / first.policy.name)
        for source, target in ((first.gnupg, layout.gnupg), (first.certificates, layout.certificates)):
            shutil.copytree(source, target, dirs_exist_ok=True)
        shutil.copy2(first.signer / "keys.yaml", layout.signer / "keys.yaml")


def _address(port: int) -> str:
    return f"{HOSTS[0]}:{port}"


def _others(ports: list[int], number: int) -> tuple[str, ...]:
    return tuple(_address(port) for other, port in enumerate(ports) if other != number)
