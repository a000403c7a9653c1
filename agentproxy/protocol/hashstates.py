"""The state of a hash behind a content: what `seal` takes instead of a digest.

A state is the chaining value after all whole blocks, the number of bytes so far, and the bytes of the unfinished block.
Whoever holds it can go on hashing, and learns nothing of the content but its last bytes. As text it is

    sha256-state:CHAINING_VALUE:LENGTH:REST

with hex in lower case, LENGTH in decimal without leading zeros, and REST empty at the end of a block.
"""

import re
from typing import Self

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.sha2 import FUNCTIONS
from agentproxy.protocol.values import frozen

__all__ = ["MAX_LENGTH", "HashState"]

# SHA-256 counts bits in 64 (FIPS 180-4, 5.1.1): far below that, with room for what the signer appends.
MAX_LENGTH = 2**60  # bytes, of the content

_STATE = r"sha(256|512)-state:([0-9a-f]+):(0|[1-9][0-9]{0,18}):([0-9a-f]*)"
_ALGORITHMS = {"256": HashAlgorithm.SHA256, "512": HashAlgorithm.SHA512}


@frozen
class HashState:
    """A state that can be.

    Raises:
        RemoteProtocolError: another algorithm, parts whose lengths do not agree, or a beginning that is not the
            algorithm's.
    """

    algorithm: HashAlgorithm  # SHA256 or SHA512
    chaining_value: bytes  # 32 or 64 bytes
    length: int  # bytes of the whole content, at most MAX_LENGTH
    rest: bytes  # length % 64 or length % 128 bytes: the content's end, which fills no block

    def __post_init__(self) -> None:
        function = FUNCTIONS.get(self.algorithm)
        if function is None:
            raise RemoteProtocolError(f"hash state: expected SHA-256 or SHA-512, got {self.algorithm.name}")
        if len(self.chaining_value) != len(function.initial):
            raise RemoteProtocolError(
                f"hash state: the chaining value has {len(function.initial)} bytes, got {len(self.chaining_value)}"
            )
        if not 0 <= self.length <= MAX_LENGTH:
            raise RemoteProtocolError(f"hash state: expected a length of at most {MAX_LENGTH} bytes")
        if len(self.rest) != self.length % function.block:
            raise RemoteProtocolError(
                f"hash state: behind {self.length} bytes {self.length % function.block} are in no whole block, "
                f"got {len(self.rest)}"
            )
        # The one chaining value that everybody knows; at any other length it cannot be told whether one is honest.
        if self.length < function.block and self.chaining_value != function.initial:
            raise RemoteProtocolError("hash state: before the first whole block the chaining value is the standard's")

    @classmethod
    def parse(cls, untrusted: str) -> Self:
        """Read exactly what `str` writes.

        Raises:
            RemoteProtocolError: another form, or a state that cannot be.
        """
        found = re.fullmatch(_STATE, untrusted)  # compiled when it is needed: a relay imports this and reads none
        # Asked here, since an expression takes five times as long to count digits in pairs.
        if found is None or len(found[2]) % 2 or len(found[4]) % 2:
            raise RemoteProtocolError("a hash state has the form sha256-state:CHAINING_VALUE:LENGTH:REST")
        bits, chaining_value, length, rest = found.groups()
        return cls(_ALGORITHMS[bits], bytes.fromhex(chaining_value), int(length), bytes.fromhex(rest))

    def __str__(self) -> str:
        name = self.algorithm.name.lower()
        return f"{name}-state:{self.chaining_value.hex()}:{self.length}:{self.rest.hex()}"

    @classmethod
    def initial(cls, algorithm: HashAlgorithm) -> Self:
        """The state before the first byte; `algorithm` is SHA256 or SHA512."""
        return cls(algorithm, FUNCTIONS[algorithm].initial, 0, b"")

    def updated(self, more: bytes) -> "HashState":
        """The state after further bytes of content; slow, as `agentproxy.protocol.sha2` says."""
        function = FUNCTIONS[self.algorithm]
        waiting = self.rest + more
        whole = len(waiting) - len(waiting) % function.block
        value = function.run(self.chaining_value, waiting[:whole])
        return HashState(self.algorithm, value, self.length + len(more), waiting[whole:])

    def finished(self, trailer: bytes = b"") -> Digest:
        """The digest of the content with `trailer`, at most 64 KiB, behind it."""
        function = FUNCTIONS[self.algorithm]
        end = self.rest + trailer + function.padding(self.length + len(trailer))
        return Digest(self.algorithm, function.run(self.chaining_value, end))
