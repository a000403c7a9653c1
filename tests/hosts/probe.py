"""Runs in the place of a daemon and tells, as one line of JSON, what became of each attempt to leave its sandbox."""

import ctypes
import errno
import json
import mmap
import os
import resource
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

_PLACES = (
    "/", "/etc", "/etc/blind-oracle", "/etc/blind-oracle/signer", "/etc/blind-oracle-relay", "/usr", "/usr/local/lib",
    "/usr/lib/blind-oracle/venv", "/var", "/var/lib", "/var/lib/blind-oracle", "/var/lib/blind-oracle-audit",
    "/var/lib/blind-oracle-signer/gnupg", "/var/lib/blind-oracle-relay", "/run", "/run/blind-oracle", "/run/lock",
    "/run/blind-oracle-relay", "/run/blind-oracle-signer", "/dev", "/dev/shm", "/dev/mqueue", "/tmp", "/var/tmp",
    "/home", "/root", "/srv", "/opt", "/mnt", "/sys/fs/cgroup", "/proc/sys/kernel",
)  # fmt: skip
_SECRETS = (
    "/etc/blind-oracle/signer/authority.key", "/etc/blind-oracle/signer/passphrases/modern",
    "/etc/blind-oracle/signer/keys.yaml", "/etc/blind-oracle/tls/server.key", "/etc/shadow", "/proc/1/cmdline",
    "/proc/1/environ",
)  # fmt: skip
_DIRECTORIES = ("/var/lib/blind-oracle-signer/gnupg/private-keys-v1.d", "/var/lib/blind-oracle-audit", "/root", "/home")
_CLONE_NEWUSER, _PTRACE_ATTACH = 0x10000000, 16
_libc = ctypes.CDLL(None, use_errno=True)


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "done"


def _write(place: str) -> None:
    with tempfile.TemporaryFile(dir=place):
        pass


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "")


def _key_file() -> None:
    for path in Path("/var/lib/blind-oracle-signer/gnupg/private-keys-v1.d").iterdir():
        path.open("ab").close()


def _status(name: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    """Try everything."""
    answers = {f"write {place}": _outcome(lambda place=place: _write(place)) for place in _PLACES}  # type: ignore[misc]
    for path in _SECRETS:
        answers[f"read {path}"] = _outcome(Path(path).read_bytes)
    for path in _DIRECTORIES:
        answers[f"list {path}"] = _outcome(lambda path=path: os.listdir(path))  # type: ignore[misc]  # noqa: PTH208
    for family in ("AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET"):
        answers[f"socket {family}"] = _outcome(lambda f=family: socket.socket(getattr(socket, f)).close())  # type: ignore[misc]
    for program in ("/bin/sh", "/usr/bin/gpg"):
        answers[f"execute {program}"] = _outcome(lambda p=program: subprocess.run([p, "--version"], check=False))  # type: ignore[misc]
    for path in ("/dev/cpu_dma_latency", "/dev/kmsg", "/dev/mem"):
        answers[f"open {path} for writing"] = _outcome(lambda path=path: os.close(os.open(path, os.O_WRONLY)))  # type: ignore[misc]
    answers["open own key file for writing"] = _outcome(_key_file)
    answers["memory that is writable and executable"] = _outcome(
        lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    )
    answers["new namespaces"] = _outcome(lambda: _checked(_libc.unshare(_CLONE_NEWUSER)))
    answers["trace another process"] = _outcome(lambda: _checked(_libc.ptrace(_PTRACE_ATTACH, os.getppid(), 0, 0)))
    answers["capabilities"] = _status("CapBnd")
    answers["no new privileges"] = _status("NoNewPrivs")
    answers["core limit"] = " ".join(map(str, resource.getrlimit(resource.RLIMIT_CORE)))
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    answers["credentials"] = " ".join(sorted(path.name for path in Path(credentials).iterdir())) if credentials else ""
    print(json.dumps(answers), flush=True)


main()
