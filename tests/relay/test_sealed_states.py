"""States of hashes by libcrypto and by our own functions: the same, and what hashlib makes of them."""

import ctypes
import dataclasses
import hashlib
import io
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.hashstates import HashState
from relay.sealed import libcrypto, states

ALGORITHMS = st.sampled_from([HashAlgorithm.SHA256, HashAlgorithm.SHA512])


@pytest.fixture
def without_libcrypto(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine whose OpenSSL has no such functions, or others under their names."""
    monkeypatch.setattr(libcrypto, "_candidates", lambda: ["libcrypto-of-nobody.so", "libc.so.6"])
    libcrypto.find.cache_clear()
    yield
    libcrypto.find.cache_clear()


@given(ALGORITHMS, st.lists(st.binary(max_size=400), max_size=5), st.binary(max_size=100))
@example(HashAlgorithm.SHA256, [b"x" * 64], b"")
@example(HashAlgorithm.SHA512, [b"x" * 128], b"")
def test_libcrypto_and_our_own_functions_agree_with_hashlib(
    algorithm: HashAlgorithm, parts: list[bytes], trailer: bytes
) -> None:
    library = libcrypto.find(algorithm)
    assert library is not None, "no libcrypto with SHA256_Init here: nothing would be compared"
    fast, slow = library.new(), HashState.initial(algorithm)
    for part in parts:
        fast.update(part)
        slow = slow.updated(part)
        assert fast.state == slow
    expected = hashlib.new(algorithm.name, b"".join(parts) + trailer).digest()
    assert states.finished(fast.state, trailer).value == slow.finished(trailer).value == expected


@pytest.mark.parametrize("algorithm", [HashAlgorithm.SHA256, HashAlgorithm.SHA512])
@pytest.mark.parametrize("size", [0, 1, 200, (1 << 20) - 1, (1 << 20) + 65])
def test_a_file_is_hashed_in_parts_to_the_same_state(algorithm: HashAlgorithm, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    state = states.state_of_file(io.BytesIO(content), algorithm)
    assert state == states.state_of(content, algorithm)
    assert state.finished(b"end").value == hashlib.new(algorithm.name, content + b"end").digest()


@pytest.mark.usefixtures("without_libcrypto")
@pytest.mark.parametrize("algorithm", [HashAlgorithm.SHA256, HashAlgorithm.SHA512])
def test_without_libcrypto_our_own_functions_do_it(algorithm: HashAlgorithm) -> None:
    assert libcrypto.find(algorithm) is None
    content = b"x" * 1000
    assert states.state_of(content, algorithm) == states.state_of_file(io.BytesIO(content), algorithm)
    assert (
        states.finished(states.state_of(content, algorithm), b"").value == hashlib.new(algorithm.name, content).digest()
    )


def test_a_libcrypto_with_another_layout_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(ctypes.Structure):
        _fields_ = [
            ("bits_low", ctypes.c_uint32),
            ("bits_high", ctypes.c_uint32),
            ("h", ctypes.c_uint32 * 8),
            ("data", ctypes.c_ubyte * 64),
            ("num", ctypes.c_uint),
            ("md_len", ctypes.c_uint),
            ("spare", ctypes.c_ubyte * 1024),
        ]

    known = libcrypto._FUNCTIONS[HashAlgorithm.SHA256]
    other = dataclasses.replace(known, context=Other)
    monkeypatch.setitem(libcrypto._FUNCTIONS, HashAlgorithm.SHA256, other)
    libcrypto.find.cache_clear()
    try:
        assert libcrypto.find(HashAlgorithm.SHA256) is None
        assert libcrypto.find(HashAlgorithm.SHA512) is not None
    finally:
        libcrypto.find.cache_clear()
