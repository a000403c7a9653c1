"""SHA-256 and SHA-512 of the libcrypto that Python itself runs on, with their states in the open.

The layout of OpenSSL's SHA256_CTX and SHA512_CTX (openssl/sha.h) has been the same since 2004, and is not taken on
trust: `find` compares states with those of our own hash functions, and gives up where they differ.
"""

import ctypes
import functools
import importlib
import sys
from typing import ClassVar, Self

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.values import frozen

__all__ = ["Libcrypto", "LibcryptoHash", "find"]

# Where Python's own module does not lead to it, by the names of OpenSSL 3, 1.1 and EL7's 1.0.2.
_NAMES = ("libcrypto.so.3", "libcrypto.so.1.1", "libcrypto.so.10")
_SPARE = 1024  # bytes behind a context, for a libcrypto whose context is larger than what we know
_LONG = 2048  # bytes; hashlib keeps the interpreter's lock for less, too


class _Sha256(ctypes.Structure):
    _fields_: ClassVar = [
        ("h", ctypes.c_uint32 * 8),
        ("bits_low", ctypes.c_uint32),
        ("bits_high", ctypes.c_uint32),
        ("data", ctypes.c_ubyte * 64),
        ("num", ctypes.c_uint),
        ("md_len", ctypes.c_uint),
        ("spare", ctypes.c_ubyte * _SPARE),
    ]


class _Sha512(ctypes.Structure):
    _fields_: ClassVar = [
        ("h", ctypes.c_uint64 * 8),
        ("bits_low", ctypes.c_uint64),
        ("bits_high", ctypes.c_uint64),
        ("data", ctypes.c_ubyte * 128),
        ("num", ctypes.c_uint),
        ("md_len", ctypes.c_uint),
        ("spare", ctypes.c_ubyte * _SPARE),
    ]


@frozen
class _Functions:
    context: type[_Sha256 | _Sha512]
    word: int  # bytes
    init: str
    update: str
    final: str


_FUNCTIONS = {
    HashAlgorithm.SHA256: _Functions(_Sha256, 4, "SHA256_Init", "SHA256_Update", "SHA256_Final"),
    HashAlgorithm.SHA512: _Functions(_Sha512, 8, "SHA512_Init", "SHA512_Update", "SHA512_Final"),
}


@frozen
class _Library:
    """One library, called in two ways."""

    short: ctypes.PyDLL  # keeps the interpreter's lock: who gives it up for a microsecond may wait a thousand for it
    long: ctypes.CDLL  # lets others have it meanwhile

    @classmethod
    def of(cls, name: str) -> Self:
        return cls(ctypes.PyDLL(name), ctypes.CDLL(name))


class LibcryptoHash:
    """One hash on its way.

    Args:
        library: has the functions.
        algorithm: SHA256 or SHA512.
    """

    def __init__(self, library: _Library, algorithm: HashAlgorithm) -> None:
        self._library = library
        self._algorithm = algorithm
        self._functions = _FUNCTIONS[algorithm]
        self._context = self._functions.context()
        library.short[self._functions.init](ctypes.byref(self._context))

    def update(self, data: bytes) -> Self:
        """Hash some bytes more; the interpreter's lock is free meanwhile, if they are many."""
        library = self._library.long if len(data) > _LONG else self._library.short
        library[self._functions.update](ctypes.byref(self._context), data, ctypes.c_size_t(len(data)))
        return self

    def go_on(self, state: HashState) -> Self:
        """Be where `state` is."""
        context, word = self._context, self._functions.word
        bits = 8 * state.length
        context.bits_low, context.bits_high = bits % (1 << 8 * word), bits >> (8 * word)
        for place in range(8):
            context.h[place] = int.from_bytes(state.chaining_value[place * word : (place + 1) * word], "big")
        context.data[: len(state.rest)] = state.rest
        context.num = len(state.rest)
        return self

    def finish(self) -> Digest:
        """The digest; nothing can follow."""
        size = self._algorithm.digest_size
        value = ctypes.create_string_buffer(size)
        self._library.short[self._functions.final](value, ctypes.byref(self._context))
        return Digest(self._algorithm, value.raw)

    @property
    def state(self) -> HashState:
        """Where the hash stands.

        Raises:
            RemoteProtocolError: the context does not hold a state that can be.
        """
        context, word = self._context, self._functions.word
        value = b"".join(int(part).to_bytes(word, "big") for part in context.h)
        bits = int(context.bits_low) | int(context.bits_high) << (8 * word)
        return HashState(self._algorithm, value, bits // 8, bytes(context.data[: context.num]))


@frozen
class Libcrypto:
    """A libcrypto that passed the comparison for one algorithm."""

    library: _Library
    algorithm: HashAlgorithm

    def new(self) -> LibcryptoHash:
        """Begin a hash."""
        return LibcryptoHash(self.library, self.algorithm)


@functools.cache
def find(algorithm: HashAlgorithm) -> Libcrypto | None:
    """The libcrypto of this process, for SHA256 or SHA512; None where there is none that we understand."""
    for name in _candidates():
        try:
            library = _Library.of(name)
            if _agrees(library, algorithm):
                return Libcrypto(library, algorithm)
        except (OSError, AttributeError, RemoteProtocolError):
            continue  # not there, without these functions, or with other contexts: the next one, or our own functions
    return None


def _candidates() -> list[str]:
    try:
        # Through it all symbols of the libcrypto that it is linked with can be found.
        module = importlib.import_module("_hashlib")
    except ImportError:
        return list(_NAMES)
    file = getattr(module, "__file__", None)
    return [file or sys.executable, *_NAMES]


def _agrees(library: _Library, algorithm: HashAlgorithm) -> bool:
    text, trailer = bytes(range(200)), b"trailer"
    for length in (0, 1, len(text)):  # nothing, less than a block, and some blocks
        ours = HashState.initial(algorithm).updated(text[:length])
        half = length // 2
        theirs = LibcryptoHash(library, algorithm).update(text[:half]).update(text[half:length]).state
        digest = LibcryptoHash(library, algorithm).go_on(ours).update(trailer).finish()
        if theirs != ours or digest != ours.finished(trailer):
            return False
    return True
