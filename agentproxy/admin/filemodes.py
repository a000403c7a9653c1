"""Whether the files of an oracle are readable and writable by the right people only."""

import stat
from collections.abc import Iterator
from pathlib import Path

from agentproxy.admin.health import Finding, Level, Subject

__all__ = ["check_modes"]

CHECK = "file modes"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def check_modes(subject: Subject) -> Iterator[Finding]:
    """Secrets that others may read, and configuration that others may change."""
    for path in _private(subject):
        mode = _mode(path)
        if mode is not None and mode & _OTHERS:
            wanted = "700" if path.is_dir() else "600"
            message = f"{path}: others may read it (mode {mode:04o})"
            yield Finding(CHECK, Level.CRITICAL, message, f"chmod {wanted} {path}")
    for path in _trusted(subject):
        mode = _mode(path)
        if mode is not None and mode & (stat.S_IWGRP | stat.S_IWOTH):
            # A group of operators may be meant; everybody cannot be.
            level = Level.CRITICAL if mode & stat.S_IWOTH else Level.WARNING
            yield Finding(CHECK, level, f"{path}: others may change it (mode {mode:04o})", f"chmod go-w {path}")


def _private(subject: Subject) -> Iterator[Path]:
    yield subject.oracle.tls.key
    if subject.signer is None:
        return
    yield subject.signer.authority.key
    keys = subject.signer.gnupg_home / "private-keys-v1.d"
    yield from (subject.signer.gnupg_home, keys, *_inside(keys))
    if subject.signer.passphrases is not None:
        yield from (subject.signer.passphrases, *_inside(subject.signer.passphrases))


def _trusted(subject: Subject) -> Iterator[Path]:
    oracle = subject.oracle
    yield from (oracle.policy, oracle.certificates, oracle.tls.certificate, oracle.tls.authority)
    if oracle.registry is not None:
        yield oracle.registry
    if oracle.signer.config is not None:
        yield oracle.signer.config
    if subject.signer is not None:
        yield from (subject.signer.keys_file, subject.signer.audit.directory, subject.signer.authority.certificate)


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
