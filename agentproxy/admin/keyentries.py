"""Writes keys.yaml, the signer's own list of keys."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import yaml

from agentproxy.admin.changing import changing
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.times import format_time
from agentproxy.runtime.files import write_atomically
from agentproxy.signer import keysfile
from agentproxy.signer.keysfile import KeyEntry

__all__ = ["entry_written", "remove_entry", "write_entry"]

_MODE = 0o644  # nothing in it is secret; only its owner may change it
_HEAD = "# Which keys the signer serves, with which hash algorithms and accepted risks. The oracle cannot change it.\n"


@contextlib.contextmanager
def entry_written(path: Path, name: str, entry: KeyEntry) -> Iterator[KeyEntry]:
    """Add the key behind the block, or update it: what an operator set for it before stays, what gpg knows is new.

    The block does what must be there before the signer reads of the key; until its end no other command changes the
    file. It gets the entry as it will stand there.

    Raises:
        ConfigError: the name belongs to another key, or the key has another name; the block has not begun then.
    """
    with changing(path):
        keys = dict(keysfile.load(path).keys) if path.exists() else {}
        keys[name] = _judged(path, keys, name, entry)
        yield keys[name]
        _write(path, keys)


def write_entry(path: Path, name: str, entry: KeyEntry) -> KeyEntry:
    """Add or update the key at once, as `entry_written`, and return its entry as it stands in the file now.

    Raises:
        ConfigError: the name belongs to another key, or the key has another name; the file is unchanged.
    """
    with entry_written(path, name, entry) as written:
        return written


def remove_entry(path: Path, name: str) -> KeyEntry:
    """Stop serving a key; its key file stays.

    Raises:
        ConfigError: there is no such key.
    """
    with changing(path):
        keys = dict(keysfile.load(path).keys)
        removed = keys.pop(name, None)
        if removed is None:
            raise ConfigError(f"{path}: no key {name}", f"known: {', '.join(keys) or 'none'}")
        _write(path, keys)
    return removed


def _judged(path: Path, keys: dict[str, KeyEntry], name: str, entry: KeyEntry) -> KeyEntry:
    known = keys.get(name)
    if known is not None and known.fingerprint != entry.fingerprint:
        hint = f"choose another name, or remove keys.{name} first"
        raise ConfigError(f"{path}: {name} is the name of key {known.fingerprint}", hint)
    for other, existing in keys.items():
        if other != name and existing.keygrip == entry.keygrip:
            raise ConfigError(f"{path}: the key is there already as {other}", f"import it as {other} to update it")
    return entry if known is None else _updated(known, entry)


def _updated(known: KeyEntry, entry: KeyEntry) -> KeyEntry:
    return replace(
        entry,
        hash_algorithms=known.hash_algorithms,
        accept_certification=known.accept_certification or entry.accept_certification,
        seal_only=known.seal_only or entry.seal_only,
    )


def _write(path: Path, keys: dict[str, KeyEntry]) -> None:
    plain = {"keys": {name: _plain(entry) for name, entry in keys.items()}}
    text = _HEAD + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)
    try:
        write_atomically(path, text.encode(), _MODE)
        if os.geteuid() == 0:
            os.chown(path, 0, 0)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def _plain(entry: KeyEntry) -> dict[str, object]:
    plain: dict[str, object] = {
        "fingerprint": str(entry.fingerprint),
        "primary": str(entry.primary),
        "keygrip": str(entry.keygrip),
        "user_id": entry.user_id,
        "usage": [usage.value for usage in entry.usage],
        "created": format_time(entry.created),
        "hash_algorithms": [algorithm.name.lower() for algorithm in entry.hash_algorithms],
    }
    if entry.expires is not None:
        plain["expires"] = format_time(entry.expires)
    if entry.accept_certification:
        plain["accept_certification"] = True
    if entry.seal_only:
        plain["seal_only"] = True
    return plain
