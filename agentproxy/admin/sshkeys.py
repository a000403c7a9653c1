"""A runner's ssh key, and the line of authorized_keys that lets it bring a stream to the oracle and do nothing else."""

import base64
import binascii
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Self

from agentproxy.oracle.config import AttachConfig
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.values import frozen

__all__ = ["SshKey", "authorized_line"]

_MOST_BYTES = 16_384  # of a public key's file; RSA-16384 has some 2800
_KINDS = re.compile(
    r"ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com"
)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


@frozen
class SshKey:
    """A public key as sshd(8) has it in authorized_keys, without options and comment."""

    kind: str
    blob: str  # base64

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file such as id_ed25519.pub.

        Raises:
            ConfigError: it cannot be read, or is no public key.
        """
        try:
            with path.open("rb") as file:
                text = file.read(_MOST_BYTES + 1).decode("utf-8", "replace")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        lines = [line for line in text.splitlines() if line.strip()]
        words = lines[0].split() if len(lines) == 1 and len(text) <= _MOST_BYTES else []
        if len(words) < 2 or not _is_key(words[0], words[1]):
            secret = "PRIVATE KEY" in text
            raise ConfigError(
                f"{path}: expected one ssh public key" + (", found a private key" if secret else ""),
                "ssh-keygen -t ed25519 -N '' -f id makes id and id.pub; give id.pub",
            )
        return cls(words[0], words[1])


def _is_key(kind: str, blob: str) -> bool:
    if _KINDS.fullmatch(kind) is None or _BASE64.fullmatch(blob) is None:
        return False
    try:
        raw = base64.b64decode(blob, validate=True)
    except binascii.Error:
        return False
    # RFC 4253, 6.6: the blob begins with its own kind; another one would be a key that sshd does not take.
    return raw.startswith(len(kind).to_bytes(4, "big") + kind.encode("ascii"))


def _program() -> str:
    """Our own command by its full path: sshd's user has a PATH of its own."""
    ours = Path(sys.executable).with_name("blind-oracle")
    return str(ours) if ours.exists() else shutil.which("blind-oracle") or "blind-oracle"


def authorized_line(runner: str, key: SshKey, attach: AttachConfig) -> str:
    """The line, with its newline: no terminal, no forwarding, one command (sshd(8), AUTHORIZED_KEYS FILE FORMAT)."""
    words = [_program(), "attach", "--runner", runner, "--socket", str(attach.socket)]
    command = shlex.join(words).replace("\\", "\\\\").replace('"', '\\"')
    return f'restrict,command="{command}" {key.kind} {key.blob} blind-oracle runner {runner}\n'
