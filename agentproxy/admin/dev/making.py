"""Makes a dev system: a state directory with keys, and one build server that is enrolled."""

from collections.abc import Mapping
from pathlib import Path

from agentproxy.admin.dev.freshkeys import ALGORITHMS, fresh_subkey
from agentproxy.admin.dev.nodes import add_nodes, first_node
from agentproxy.admin.dev.place import RUNNER, Place
from agentproxy.admin.dev.ports import free_ports
from agentproxy.admin.enrolment import add_runner, enrol_again, known_credentials
from agentproxy.admin.importing import MAX_EXPORT, KeyImport
from agentproxy.admin.intake import take_key
from agentproxy.admin.layout import load_oracle, load_signer
from agentproxy.admin.policyfile import add, key_addition, runner_addition
from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.files import read_beginning, write_atomically
from relay.enrolment import enrol, places_for, read_enrolment

__all__ = ["enrol_relay", "make"]

_LEGACY = "legacy"
_DEADLINE_SECONDS = 10  # shorter than a build server's: whoever stops the oracle to see what happens is watching


def make(place: Place, exports: Mapping[str, Path], oracles: int = 1) -> None:
    """Put everything into `place`, which must be empty; nothing runs afterwards.

    Args:
        exports: the files of exported secret keys by the keys' names; empty for fresh ones, modern and legacy.
        oracles: how many there will be.

    Raises:
        ConfigError: with a reason and a hint.
    """
    contents = {name: _read(file) for name, file in exports.items()}
    place.clear_unfinished()
    if any(place.root.iterdir()):
        raise ConfigError(f"{place.root}: expected an empty directory or nothing", "choose another, or empty it first")
    try:
        place.set_making()
        _fill(place, exports, contents, oracles)
    except BaseException:
        place.clear()  # half a system can neither be started nor made again
        raise


def _fill(place: Place, exports: Mapping[str, Path], contents: Mapping[str, bytes], oracles: int) -> None:
    http, *ports = free_ports(1 + oracles)
    layout = first_node(place, ports)
    with layout.oracle_config.open("a", encoding="ascii") as file:
        file.write(f"\nhttp:\n  listen: 127.0.0.1:{http}\n")
    place.logs.mkdir(mode=0o700)
    oracle = load_oracle(layout.oracle_config)
    signer = load_signer(oracle)
    for name in contents or ALGORITHMS:
        wanted = KeyImport(name, contents[name] if contents else fresh_subkey(name))
        try:
            imported = take_key(oracle, signer, wanted)
        except ConfigError as error:
            given = f"{name}={exports[name]}: " if name in exports else ""
            raise ConfigError(f"{given}{error}", error.hint) from error
        entry, key_type = imported.entry, _LEGACY if name == _LEGACY else "modern"
        add(oracle.policy, key_addition(name, entry.fingerprint, key_type, entry.hash_algorithms))
    add(oracle.policy, runner_addition(RUNNER, list(contents or ALGORITHMS)))
    place.relay.mkdir(mode=0o700)
    add_nodes(place, ports)


def enrol_relay(place: Place) -> None:
    """Enrol the build server, unless it is; the oracle must run.

    Raises:
        ConfigError: with a reason and a hint.
    """
    if place.relay_config.exists():
        return
    oracle = load_oracle(place.layout.oracle_config)
    file = place.root / f"{RUNNER}.enrolment"
    make_file = enrol_again if RUNNER in known_credentials(oracle).runners else add_runner
    try:
        write_atomically(file, make_file(oracle, RUNNER), 0o600)
        places = places_for(place.relay_config)
        enrol(read_enrolment(file), places, replace=True, deadline_seconds=_DEADLINE_SECONDS)
    finally:
        file.unlink(missing_ok=True)


def _read(file: Path) -> bytes:
    content = read_beginning(file, MAX_EXPORT + 1)  # whoever takes it says what is too much
    if not content:
        raise ConfigError(
            f"{file}: is empty, expected an exported secret key", "gpg --export-secret-subkeys KEYID! > FILE"
        )
    return content
