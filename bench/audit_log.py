"""A long audit log: how fast it is verified, indexed and searched.

usage: python -m bench.audit_log [--records N] [--directory DIR]
"""

import argparse
import hashlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from agentproxy.admin.auditindex import AuditIndex
from agentproxy.admin.auditquery import Query
from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.fields import Asserted, Claims
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.signer_requests import Outcome
from agentproxy.signer.log import AuditLog, LogLimits
from agentproxy.signer.logkey import LogKey
from agentproxy.signer.record import Entry
from agentproxy.signer.verifylog import verify

GOAL = 100_000  # records verified a second
BATCH = 1000
KEY = LogKey.generate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--directory", type=Path, help="where the log is made; it must be empty")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bo") as name:
        log = arguments.directory or Path(name, "audit")
        log.mkdir(exist_ok=True)
        measure(log, Path(name, "cache"), arguments.records)


def measure(log: Path, cache: Path, records: int) -> None:
    with timed("write", records):
        write_log(log, records)
    size = sum(path.stat().st_size for path in log.glob("*.jsonl"))
    print(f"{size / records:.0f} bytes a record, {size >> 20} MiB")
    with timed(f"verify with the public key, goal {GOAL}", records):
        check(log, records)
    with timed("make the index", records), AuditIndex.open(log, cache):
        pass
    wanted = hashlib.sha256(str(records // 2).encode()).hexdigest()
    for what, query in (("digest", Query(digest=wanted)), ("package", Query(package="package-77"))):
        with timed(f"one search by {what}, index up to date", 1), AuditIndex.open(log, cache) as index:
            print(f"{sum(1 for _ in index.find(query))} found")


def check(log: Path, records: int) -> None:
    """Verify a log that is whole and has so many records."""
    report = verify(log, keys=[KEY.public])
    if report.damage is not None or report.covered != records:
        raise RuntimeError(f"not whole: {report}")


def write_log(directory: Path, records: int) -> None:
    with AuditLog.open(directory, "bench", LogLimits(reserve_bytes=0), lambda: datetime.now(UTC), KEY) as log:
        for start in range(0, records, BATCH):
            log.append([signed(number) for number in range(start, min(records, start + BATCH))])


def signed(number: int) -> Entry:
    claims = Claims(
        uid=1000,
        user="mock",
        pid=number % 30_000,
        commands=("gpg --no-verbose --no-armor -u packages -sbo file.sig -- file", "rpmsign --addsign file.rpm"),
        package=f"package-{number % 5000}-0:1.{number}-1.el9.x86_64",
        job={"project": "distribution", "pipeline": str(number // 200)},
    )
    asserted = Asserted(
        runner=f"build-{number % 20:02}",
        token="0f1e2d3c4b5a",  # noqa: S106  a public id
        address="192.0.2.10:40122",
        distribution="el9",
        claims=claims,
    )
    return Entry(
        "sign",
        Outcome.SIGNED,
        asserted,
        request=f"{number:032x}",
        key="modern",
        fingerprint=Fingerprint(bytes(20)),
        keygrip=Keygrip(bytes(20)),
        digest=Digest(HashAlgorithm.SHA256, hashlib.sha256(str(number).encode()).digest()),
        signature_sha256=bytes(32),
        duration_us=7000,
    )


@contextmanager
def timed(what: str, count: int) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds = time.perf_counter() - began
    print(f"{what}: {seconds:.3f} s, {count / seconds:.0f}/s")


if __name__ == "__main__":
    main()
