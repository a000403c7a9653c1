"""What tests of the audit log need: small logs, written by the real pen."""

import json
from collections.abc import Iterator
from pathlib import Path

from agentproxy.protocol.fields import Asserted, Head
from agentproxy.protocol.signer_requests import Outcome
from agentproxy.signer.log import AuditLog, LogLimits
from agentproxy.signer.record import Entry, hash_of_line
from agentproxy.signer.segment import list_segments

LIMITS = LogLimits(reserve_bytes=0)
NODE = "node-1"


def signed(number: int) -> Entry:
    return Entry("sign", Outcome.SIGNED, Asserted(runner="builder"), request=f"{number:032x}", duration_us=number)


def refused(number: int) -> Entry:
    return Entry("sign", Outcome.REFUSED, Asserted(runner="builder"), reason="no", request=f"{number:032x}")


def write_log(directory: Path, records: int, limits: LogLimits = LIMITS) -> Head:
    with AuditLog.open(directory, NODE, limits) as log:
        for number in range(records):
            log.append([signed(number)])
        assert log.head is not None
        return log.head


def in_use(directory: Path, records: int, limits: LogLimits = LIMITS) -> bytes:
    """What lies in the last segment while a signer has it open; it lies there again at the end, as after a kill."""
    with AuditLog.open(directory, NODE, limits) as log:
        for number in range(records):
            log.append([signed(number)])
        (path,) = [segment.path for segment in list_segments(directory)][-1:]
        content = path.read_bytes()
    path.write_bytes(content)
    return content


def lines_in(directory: Path) -> Iterator[bytes]:
    """All lines of a log, also of one in use, after a check of the chain by plain means."""
    prev, sequence = bytes(32).hex(), 0
    paths = sorted(directory.glob("*.jsonl"))
    for path in paths:
        content = path.read_bytes().rstrip(b"\x00" if path == paths[-1] else b"")
        assert content == b"" or content.endswith(b"\n")
        for line in content.splitlines():
            record = json.loads(line)
            assert record["prev"] == prev
            assert record["sequence"] == sequence + 1
            prev, sequence = hash_of_line(line).hex(), sequence + 1
            yield line


def records_in(directory: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in lines_in(directory)]
