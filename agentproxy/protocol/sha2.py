"""SHA-256 and SHA-512 that can go on from any chaining value, which no library of Python's lets us do.

Only the compression functions and the padding are here. Slow by nature: a block takes a twentieth of a millisecond. Who
has the content lets OpenSSL hash it; the signer finishes a hash, which is one block or two. Source: FIPS 180-4, 4 to 6.
"""

import functools
import struct
from collections.abc import Callable
from itertools import count
from math import isqrt

from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.values import frozen

__all__ = ["FUNCTIONS", "HashFunction"]

_Words = tuple[int, ...]  # eight words: a chaining value


def _primes(number: int) -> list[int]:
    found: list[int] = []
    for candidate in count(2):
        if all(candidate % prime for prime in found):
            found.append(candidate)
        if len(found) == number:
            break
    return found


def _cube_root(value: int) -> int:
    """The integer part, by Newton's method from above."""
    root = 1 << (value.bit_length() // 3 + 1)
    while (better := (2 * root + value // root**2) // 3) < root:
        root = better
    return root


@functools.cache  # made at first use: a relay that only passes digests on never needs them
def _fractions_of_cube_roots(bits: int, rounds: int) -> _Words:
    """The first `bits` bits of the fractional parts of the cube roots of the first primes (4.2.2, 4.2.3)."""
    return tuple(_cube_root(prime << (3 * bits)) & ((1 << bits) - 1) for prime in _primes(rounds))


def _fractions_of_square_roots(bits: int) -> bytes:
    """The same of the square roots of the first eight (5.3.3, 5.3.5)."""
    words = (isqrt(prime << (2 * bits)) & ((1 << bits) - 1) for prime in _primes(8))
    return b"".join(word.to_bytes(bits // 8, "big") for word in words)


# In both: a word beside itself turns rotations into shifts, since what leaves on the right stands on the left too. What
# then stands above a word is cut off behind the additions: they carry upwards only.


def _compress256(state: _Words, block: bytes) -> _Words:
    """6.2.2, with Maj as b ^ ((a ^ b) & (b ^ c)), whose second half is the first of the round before."""
    w = list(struct.unpack(">16I", block))
    for t in range(16, 64):
        v, u = w[t - 15], w[t - 2]
        x, y = v * 0x1_0000_0001, u * 0x1_0000_0001
        small0 = (x >> 7) ^ (x >> 18) ^ (v >> 3)
        small1 = (y >> 17) ^ (y >> 19) ^ (u >> 10)
        w.append((w[t - 16] + small0 + w[t - 7] + small1) & 0xFFFFFFFF)
    a, b, c, d, e, f, g, h = state
    bc = b ^ c
    for k, word in zip(_fractions_of_cube_roots(32, 64), w, strict=True):
        x, y, ab = e * 0x1_0000_0001, a * 0x1_0000_0001, a ^ b
        one = h + ((x >> 6) ^ (x >> 11) ^ (x >> 25)) + (g ^ (e & (f ^ g))) + k + word
        two = ((y >> 2) ^ (y >> 13) ^ (y >> 22)) + (b ^ (ab & bc))
        h, g, f, e = g, f, e, (d + one) & 0xFFFFFFFF
        d, c, b, a = c, b, a, (one + two) & 0xFFFFFFFF
        bc = ab
    return tuple([(old + new) & 0xFFFFFFFF for old, new in zip(state, (a, b, c, d, e, f, g, h), strict=True)])


def _compress512(state: _Words, block: bytes) -> _Words:
    """6.4.2, in the same way."""
    mask, double = 0xFFFFFFFFFFFFFFFF, 0x1_0000_0000_0000_0001
    w = list(struct.unpack(">16Q", block))
    for t in range(16, 80):
        v, u = w[t - 15], w[t - 2]
        x, y = v * double, u * double
        small0 = (x >> 1) ^ (x >> 8) ^ (v >> 7)
        small1 = (y >> 19) ^ (y >> 61) ^ (u >> 6)
        w.append((w[t - 16] + small0 + w[t - 7] + small1) & mask)
    a, b, c, d, e, f, g, h = state
    bc = b ^ c
    for k, word in zip(_fractions_of_cube_roots(64, 80), w, strict=True):
        x, y, ab = e * double, a * double, a ^ b
        one = h + ((x >> 14) ^ (x >> 18) ^ (x >> 41)) + (g ^ (e & (f ^ g))) + k + word
        two = ((y >> 28) ^ (y >> 34) ^ (y >> 39)) + (b ^ (ab & bc))
        h, g, f, e = g, f, e, (d + one) & mask
        d, c, b, a = c, b, a, (one + two) & mask
        bc = ab
    return tuple([(old + new) & mask for old, new in zip(state, (a, b, c, d, e, f, g, h), strict=True)])


@frozen
class HashFunction:
    """One of the two, with the sizes of its parts in bytes."""

    initial: bytes  # the chaining value before the first block
    word: int
    block: int
    _compress: Callable[[_Words, bytes], _Words]

    def run(self, chaining_value: bytes, blocks: bytes) -> bytes:
        """The chaining value after whole blocks."""
        size = self.word
        state = tuple(int.from_bytes(chaining_value[at : at + size], "big") for at in range(0, 8 * size, size))
        for start in range(0, len(blocks), self.block):
            state = self._compress(state, blocks[start : start + self.block])
        return b"".join(word.to_bytes(size, "big") for word in state)

    def padding(self, length: int) -> bytes:
        """What follows a message of `length` bytes (5.1): one bit, zeros, and its length in bits, in two words."""
        zeros = -(length + 1 + 2 * self.word) % self.block
        return b"\x80" + bytes(zeros) + (8 * length).to_bytes(2 * self.word, "big")


FUNCTIONS = {
    HashAlgorithm.SHA256: HashFunction(_fractions_of_square_roots(32), 4, 64, _compress256),
    HashAlgorithm.SHA512: HashFunction(_fractions_of_square_roots(64), 8, 128, _compress512),
}
