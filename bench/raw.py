"""The ceilings: the disk's fdatasync, and `cryptography` signing in two threads with nothing around it."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa, utils

__all__ = ["Signer", "ed25519_signer", "fdatasync_p50_us", "one_thread_p50_us", "rsa_signer", "two_thread_rate"]

Signer = Callable[[], object]
_RECORD = b"x" * 1200 + b"\n"  # bytes: about one audit record


def fdatasync_p50_us(directory: Path, count: int = 200, *, over_zeros: bool) -> float:
    """Median microseconds of writing one record's worth of bytes and fdatasync.

    Args:
        over_zeros: over bytes that are on disk, as the signer does; else each makes the file grow.
    """
    path = directory / "fdatasync-probe"
    path.write_bytes(bytes(count * len(_RECORD) * over_zeros))
    times = []
    with path.open("r+b", buffering=0) as file:
        os.fsync(file.fileno())
        for _ in range(count):
            start = time.perf_counter()
            file.write(_RECORD)
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - start) * 1e6)
    path.unlink()
    return median(times)


def rsa_signer(bits: int) -> Signer:
    """A function that makes one PKCS#1 v1.5 signature over a SHA-512 digest."""
    key = rsa.generate_private_key(65537, bits)
    scheme, prehashed, digest = padding.PKCS1v15(), utils.Prehashed(hashes.SHA512()), b"Z" * 64
    return lambda: key.sign(digest, scheme, prehashed)


def ed25519_signer() -> Signer:
    """A function that makes one Ed25519 signature over 64 bytes."""
    key = ed25519.Ed25519PrivateKey.generate()
    return lambda: key.sign(b"Z" * 64)


def one_thread_p50_us(sign: Signer, count: int = 30) -> float:
    """Median microseconds of one signature."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        sign()
        times.append((time.perf_counter() - start) * 1e6)
    return median(times)


def two_thread_rate(sign: Signer, seconds: float) -> float:
    """Signatures a second by two threads that do nothing else."""
    counts = [0, 0]
    start = time.perf_counter()
    end = start + seconds

    def work(index: int) -> None:
        while time.perf_counter() < end:
            sign()
            counts[index] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)
