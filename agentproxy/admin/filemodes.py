"""Whether the files of an oracle are readable and writable by the right people only."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from agentproxy.admin.health import Finding, Level, Subject

__all__ = ["check_modes", "is_missing"]

CHECK = "file modes"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def check_modes(subject: Subject) -> Iterator[Finding]:
    """Secrets that others may read, and configuration that others may change."""
    for path in _needed(subject):
        if is_missing(path):
            yield Finding(CHECK, Level.CRITICAL, f"{path}: is missing", "without it the daemon does not start")
    for path in _private(subject):
        mode = _mode(path)
        if mode is not None and mode & _OTHERS:
            wanted = "700" if path.is_dir() else "600"
            message = f"{path}: others may read it (mode {mode:04o})"
            yield Finding(CHECK, Level.CRITICAL, message, f"chmod {wanted} {path}")
    for path in (*_trusted(subject), *_directories(subject)):
        mode = _mode(path)
        if mode is not None and mode & (stat.S_IWGRP | stat.S_IWOTH):
            # A group of operators may be meant; everybody cannot be.
            level = Level.CRITICAL if mode & stat.S_IWOTH else Level.WARNING
            yield Finding(CHECK, level, f"{path}: others may change it (mode {mode:04o})", f"chmod go-w {path}")
    yield from _owners(subject)


def _owners(subject: Subject) -> Iterator[Finding]:
    """Where systemd runs the daemons, root changes nothing that one of them owns, and neither owns the other's."""
    signer = subject.signer
    if subject.oracle.signer.start or signer is None or os.geteuid() != 0:
        return
    keys = signer.gnupg_home / "private-keys-v1.d"
    theirs = {"signer": (signer.gnupg_home, keys, *_inside(keys), signer.audit.directory)}
    if subject.oracle.registry is not None:
        theirs["oracle"] = (subject.oracle.registry.parent, subject.oracle.registry)
    peers = signer.peers - set(signer.peer_uids)  # by name: the oracle's user, see `init --system`
    for who, paths in theirs.items():
        for path in paths:
            owner = _owner(path)
            right = owner in peers if who == "oracle" else owner not in {0, *peers}
            if owner is not None and not right:
                message = f"{path}: belongs to uid {owner}, expected the {who}'s user"
                yield Finding(CHECK, Level.CRITICAL, message, f"chown to the {who}'s user, as the package made it")


def _owner(path: Path) -> int | None:
    try:
        return path.stat().st_uid
    except OSError:
        return None


def _needed(subject: Subject) -> Iterator[Path]:
    yield subject.oracle.tls.key
    if subject.signer is not None:
        yield subject.signer.authority.key


def is_missing(path: Path) -> bool:
    """Whether nothing is there; what we may not see may be."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False  # not for us to see
    return False


def _private(subject: Subject) -> Iterator[Path]:
    yield subject.oracle.tls.key
    if subject.signer is None:
        return
    yield from (subject.signer.authority.key, subject.signer.audit_key)
    keys = subject.signer.gnupg_home / "private-keys-v1.d"
    yield from (subject.signer.gnupg_home, keys, *_inside(keys))
    if subject.signer.passphrases is not None:
        yield from (subject.signer.passphrases, *_inside(subject.signer.passphrases))


def _trusted(subject: Subject) -> Iterator[Path]:
    oracle = subject.oracle
    yield from (subject.config, oracle.policy, oracle.certificates, oracle.tls.certificate, oracle.tls.authority)
    if oracle.registry is not None:
        yield oracle.registry
    if oracle.signer.config is not None:
        yield oracle.signer.config
    if subject.signer is not None:
        yield from (subject.signer.keys_file, subject.signer.audit.directory, subject.signer.authority.certificate)


def _directories(subject: Subject) -> list[Path]:
    """Where those files lie: who may change a directory may put another file in the place of one in it."""
    told = {path.resolve() for path in (*_private(subject), *_trusted(subject))}
    found = {path.absolute().parent.resolve() for path in (*_private(subject), *_trusted(subject))}
    return sorted(path for path in found - told if not (_mode(path) or 0) & stat.S_ISVTX)


def _inside(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []  # not there, or not for us: whoever needs it says so


def _mode(path: Path) -> int | None:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
