"""Which file gpg, or rpmsign above it, works on: from command lines, open descriptors and working directories."""

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.values import frozen
from relay import procfs
from relay.procfs import Process

if TYPE_CHECKING:
    from relay.rpmheader import Package

__all__ = ["WorkFile", "find_work_file"]

_RPM_PROGRAMS = frozenset({"rpmsign", "rpm"})
# Options of gpg whose value is the next word; the long ones may also carry it after "=".
_GPG_LETTERS = frozenset("uoNr")
_GPG_VALUES = frozenset(
    {
        "--agent-program",
        "--attribute-fd",
        "--cert-digest-algo",
        "--cipher-algo",
        "--command-fd",
        "--comment",
        "--compress-algo",
        "--default-cert-level",
        "--default-key",
        "--digest-algo",
        "--display-charset",
        "--faked-system-time",
        "--homedir",
        "--keyring",
        "--local-user",
        "--logger-fd",
        "--logger-file",
        "--options",
        "--output",
        "--passphrase",
        "--passphrase-fd",
        "--passphrase-file",
        "--personal-digest-preferences",
        "--pinentry-mode",
        "--recipient",
        "--secret-keyring",
        "--sender",
        "--set-filename",
        "--set-notation",
        "--sig-notation",
        "--sig-policy-url",
        "--status-fd",
        "--status-file",
        "--trust-model",
        "--ttyname",
        "--ttytype",
        "--weak-digest",
    }
)


@frozen
class WorkFile:
    """A file that somebody has signed."""

    path: str  # absolute when we could see where
    package: "Package | None" = None


def find_work_file(lineage: Sequence[Process]) -> WorkFile | None:
    """The file, as far as it shows.

    Args:
        lineage: gpg, its parent, and so on.
    """
    for process in lineage:
        if process.program in _RPM_PROGRAMS:
            return _of_rpmsign(process)
    if lineage and lineage[0].program.startswith("gpg"):
        return _of_gpg(lineage[0])
    return None


def _of_rpmsign(process: Process) -> WorkFile | None:
    files = list(procfs.open_files(process.pid))
    # rpmsign takes one file after another; the open one is the one that is signed. By a link it has another name.
    for fits in (lambda path: os.path.basename(path) in process.names, lambda path: path.endswith(".rpm")):  # noqa: PTH119
        found = [(number, path) for number, path in files if fits(path)]
        if found:
            number, path = found[0]
            return WorkFile(path, _package(f"/proc/{process.pid}/fd/{number}", follow=True))
    packages = [word for word in process.arguments if word.endswith(".rpm")]
    if len(packages) != 1:
        return None
    path = _absolute(process, packages[0])
    return WorkFile(path, _package(path, follow=False) if path.startswith("/") else None)


def _package(path: str, *, follow: bool) -> "Package | None":
    from relay.rpmheader import read_package  # noqa: PLC0415  the first signature of gpg alone does not wait for it

    try:
        descriptor = procfs.open_regular(path, follow=follow)
    except OSError:
        return None
    try:
        return read_package(descriptor)
    except (OSError, RemoteProtocolError):
        return None
    finally:
        os.close(descriptor)


def _of_gpg(process: Process) -> WorkFile | None:
    files = list(_arguments(process.words[1:]))
    return WorkFile(_absolute(process, files[0])) if len(files) == 1 else None


def _arguments(words: Sequence[str]) -> Iterator[str]:
    """The words of gpg's command line that are neither options nor their values."""
    is_value = False
    for number, word in enumerate(words):
        if is_value:
            is_value = False
        elif word == "--":
            yield from words[number + 1 :]
            return
        elif word.startswith("--"):
            is_value = word in _GPG_VALUES
        elif word.startswith("-") and len(word) > 1:
            is_value = word[-1] in _GPG_LETTERS
        elif word != "-":
            yield word


def _absolute(process: Process, word: str) -> str:
    directory = None if word.startswith("/") else procfs.working_directory(process.pid)
    return word if directory is None else os.path.normpath(os.path.join(directory, word))  # noqa: PTH118
