"""The pen of the audit log: chain, recovery, and refusal to continue what is damaged."""

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.fields import Asserted, Claims
from agentproxy.protocol.signer_requests import Outcome
from agentproxy.signer.log import AuditLog, LogLimits
from agentproxy.signer.record import Entry, hash_of_line
from agentproxy.signer.verifylog import DamageKind, verify
from tests.signer.logs import LIMITS, NODE, lines_in, records_in, refused, signed, write_log


def test_records_are_chained_from_64_zeros(tmp_path: Path) -> None:
    head = write_log(tmp_path, 3)
    lines = [*lines_in(tmp_path)]
    assert [path.name for path in tmp_path.iterdir()] == ["node-1-000000000001.jsonl"]
    assert head.sequence == 3
    assert head.hash == hashlib.sha256(lines[2]).digest()


def test_a_reopened_log_continues_its_chain(tmp_path: Path) -> None:
    write_log(tmp_path, 2)
    write_log(tmp_path, 2)
    assert [record["sequence"] for record in records_in(tmp_path)] == [1, 2, 3, 4]


def test_a_clock_that_jumps_breaks_no_chain_and_the_order_is_that_of_the_sequence(tmp_path: Path) -> None:
    start, jumps = datetime(2026, 11, 22, tzinfo=UTC), [0, 400, -400, 1, -1]
    for days in jumps:
        moment = start + timedelta(days=days)
        with AuditLog.open(tmp_path, NODE, LIMITS, clock=lambda moment=moment: moment) as log:
            log.append([signed(1), signed(2)])
    report = verify(tmp_path)
    assert report.damage is None
    records = records_in(tmp_path)
    assert [record["sequence"] for record in records] == list(range(1, 2 * len(jumps) + 1))
    assert [record["time"] for record in records] != sorted(str(record["time"]) for record in records)


def test_one_append_gives_each_record_its_own_head(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path, NODE, LIMITS) as log:
        heads = log.append([signed(1), signed(2)])
        assert log.head == heads[1]
    assert [head.hash for head in heads if head] == [hash_of_line(line) for line in lines_in(tmp_path)]


def test_the_head_does_not_move_before_the_disk_has_the_record(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path, NODE, LIMITS) as log:
        (place,) = log.append([refused(1)], durable=False)
        assert log.head is None
        log.sync()
        assert log.head == place


def test_a_second_signer_on_the_directory_is_refused(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path, NODE, LIMITS), pytest.raises(ConfigError, match="another signer"):
        AuditLog.open(tmp_path, NODE, LIMITS)
    write_log(tmp_path, 1)  # the lock ends with the log


def test_a_killed_signer_leaves_no_lock(tmp_path: Path) -> None:
    program = "import os, sys, signal; from pathlib import Path; from agentproxy.signer.log import AuditLog\n"
    program += "log = AuditLog.open(Path(sys.argv[1]), 'node-1'); os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    write_log(tmp_path, 1)


def test_another_nodes_directory_is_refused(tmp_path: Path) -> None:
    write_log(tmp_path, 1)
    with pytest.raises(ConfigError, match="belongs to node node-1"):
        AuditLog.open(tmp_path, "node-2", LIMITS)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        AuditLog.open(tmp_path / "nowhere", NODE, LIMITS)


def test_a_symlink_instead_of_a_segment_is_refused(tmp_path: Path) -> None:
    write_log(tmp_path, 1)
    segment = next(tmp_path.iterdir())
    segment.rename(tmp_path / "elsewhere")
    segment.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        AuditLog.open(tmp_path, NODE, LIMITS)


def test_a_line_torn_at_any_byte_is_saved_and_the_chain_goes_on(tmp_path: Path) -> None:
    write_log(tmp_path, 2)
    segment = next(tmp_path.iterdir())
    content = segment.read_bytes()
    kept = content.index(b"\n") + 1
    for size in range(kept + 1, len(content)):
        segment.write_bytes(content[:size])
        assert verify(tmp_path).damage.kind is DamageKind.TORN  # type: ignore[union-attr]  # None fails as it should
        write_log(tmp_path, 1)
        records, torn = records_in(tmp_path), content[kept:size]
        details = {"file": f"{segment.name}.torn-1", "bytes": str(len(torn)), "sha256": _sha256(torn)}
        assert [record["operation"] for record in records] == ["sign", "recovered", "sign"]
        assert records[1]["details"] == details
        assert (tmp_path / f"{segment.name}.torn-1").read_bytes() == torn
        assert verify(tmp_path).damage is None
        (tmp_path / f"{segment.name}.torn-1").unlink()


def test_a_first_line_that_is_torn_leaves_an_empty_log(tmp_path: Path) -> None:
    (tmp_path / "node-1-000000000001.jsonl").write_bytes(b'{"sequence":1,')
    write_log(tmp_path, 1)
    assert [record["operation"] for record in records_in(tmp_path)] == ["recovered", "sign"]


def test_blocks_of_zeros_after_a_power_loss_are_a_torn_tail(tmp_path: Path) -> None:
    write_log(tmp_path, 1)
    segment = next(tmp_path.iterdir())
    with segment.open("ab") as file:
        file.write(bytes(4096) + b'rest of a line"}\nand another')
    write_log(tmp_path, 1)
    assert [record["operation"] for record in records_in(tmp_path)] == ["sign", "recovered", "sign"]
    assert verify(tmp_path).damage is None


@pytest.mark.parametrize("step", ["saved", "cut"])
def test_a_crash_during_recovery_is_recovered_from(tmp_path: Path, step: str) -> None:
    write_log(tmp_path, 1)
    segment = next(tmp_path.iterdir())
    (tmp_path / f"{segment.name}.torn-1").write_bytes(b"torn")
    if step == "saved":
        with segment.open("ab") as file:
            file.write(b"torn")
    write_log(tmp_path, 1)
    assert [record["operation"] for record in records_in(tmp_path)] == ["sign", "recovered", "sign"]
    assert len([*tmp_path.iterdir()]) == 2


def test_two_torn_tails_of_one_segment_are_both_kept(tmp_path: Path) -> None:
    write_log(tmp_path, 1)
    segment = next(tmp_path.iterdir())
    for torn in (b"one", b"two"):
        with segment.open("ab") as file:
            file.write(torn)
        write_log(tmp_path, 1)
    assert [(tmp_path / f"{segment.name}.torn-{n}").read_bytes() for n in (1, 2)] == [b"one", b"two"]
    assert verify(tmp_path).damage is None


def test_what_two_crashes_tore_is_recorded_twice_also_when_it_is_the_same(tmp_path: Path) -> None:
    write_log(tmp_path, 1)
    segment = next(tmp_path.iterdir())
    for _ in range(2):
        with segment.open("ab") as file:
            file.write(b'{"sequence":')
        write_log(tmp_path, 1)
    assert [record["operation"] for record in records_in(tmp_path)].count("recovered") == 2
    assert len([*tmp_path.glob("*.torn-*")]) == 2
    assert verify(tmp_path).damage is None


@pytest.mark.parametrize("taken", [1, 2])
def test_a_saved_tail_that_was_taken_away_stops_no_later_one(tmp_path: Path, taken: int) -> None:
    write_log(tmp_path, 1)
    segment = next(tmp_path.iterdir())
    for torn in (b"one", b"two", b"three"):
        with segment.open("ab") as file:
            file.write(torn)
        write_log(tmp_path, 1)
        if torn == b"two":
            (tmp_path / f"{segment.name}.torn-{taken}").unlink()
    assert (tmp_path / f"{segment.name}.torn-3").read_bytes() == b"three"
    assert [record["operation"] for record in records_in(tmp_path)].count("recovered") == 3
    assert verify(tmp_path).damage is None


def test_a_runner_cannot_tell_of_a_saved_tail_in_the_signers_place(tmp_path: Path) -> None:
    names = [f"{NODE}-000000000001.jsonl.torn-{number}" for number in (10**18 - 1, 10**18, 1)]
    with AuditLog.open(tmp_path, NODE, LIMITS) as log:
        log.append([Entry("sign", Outcome.SIGNED, Asserted(claims=Claims(file=name))) for name in names])
    with (tmp_path / f"{NODE}-000000000001.jsonl").open("ab") as file:
        file.write(b"torn")
    write_log(tmp_path, 1)
    assert [record["operation"] for record in records_in(tmp_path)][3:] == ["recovered", "sign"]
    assert [path.name for path in tmp_path.glob("*.torn-*")] == names[2:]


def test_an_empty_saved_tail_is_no_recovery(tmp_path: Path) -> None:
    write_log(tmp_path, 1)
    segment = next(tmp_path.iterdir())
    (tmp_path / f"{segment.name}.torn-1").touch()
    write_log(tmp_path, 1)
    assert [record["operation"] for record in records_in(tmp_path)] == ["sign", "sign"]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_damaged_segment_is_not_continued(tmp_path: Path) -> None:
    write_log(tmp_path, 3)
    segment = next(tmp_path.iterdir())
    segment.write_bytes(segment.read_bytes().replace(b'"duration_us":1,', b'"duration_us":7,'))
    with pytest.raises(ConfigError, match="line 3: the audit log is damaged"):
        AuditLog.open(tmp_path, NODE, LIMITS)


def test_megabytes_that_are_no_records_are_not_a_torn_tail(tmp_path: Path) -> None:
    write_log(tmp_path, 1)
    with next(tmp_path.iterdir()).open("ab") as file:
        file.write(bytes(5 << 20))
    with pytest.raises(ConfigError, match="damaged"):
        AuditLog.open(tmp_path, NODE, LIMITS)


def test_segments_rotate_by_size_and_chain_over_files(tmp_path: Path) -> None:
    limits = LogLimits(reserve_bytes=0, rotate_bytes=1500)
    write_log(tmp_path, 5, limits)
    write_log(tmp_path, 5, limits)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"node-1-{first:012}.jsonl" for first in (1, 3, 5, 7, 9)]
    assert len(records_in(tmp_path)) == 10
    assert [path.stat().st_mode & 0o777 for path in sorted(tmp_path.iterdir())] == [0o440] * 4 + [0o640]
    report = verify(tmp_path)
    assert (report.damage, report.records, report.segments) == (None, 10, 5)


def test_segments_rotate_by_age(tmp_path: Path) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    with AuditLog.open(tmp_path, NODE, LogLimits(0, 1 << 20, 60), lambda: now) as log:
        log.append([signed(1)])
        now += timedelta(seconds=59)
        log.append([signed(2)])
        now += timedelta(seconds=1)
        log.append([signed(3)])
    assert sorted(path.name[-9:] for path in tmp_path.iterdir()) == ["001.jsonl", "003.jsonl"]


def test_a_crash_between_two_segments_leaves_a_log_that_goes_on(tmp_path: Path) -> None:
    write_log(tmp_path, 2)
    (tmp_path / "node-1-000000000003.jsonl").touch()
    assert verify(tmp_path).damage is None
    write_log(tmp_path, 1)
    assert [record["sequence"] for record in records_in(tmp_path)] == [1, 2, 3]


def test_a_batch_larger_than_one_write_may_be_is_written_in_parts(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path, NODE, LIMITS) as log:
        heads = log.append([signed(number) for number in range(4000)])
    assert [head.sequence for head in heads if head] == [*range(1, 4001)]
    assert len(records_in(tmp_path)) == 4000


def test_the_lock_does_not_reach_child_processes(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path, NODE, LIMITS)
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
    log.close()
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)
    assert child.poll() is None  # or it would have given the lock back anyway
    child.communicate(timeout=10)
