"""Whoever holds the log's public key sees what consistent hashes hide."""

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.signer.checkpoint import Checkpoint, checkpoints_path
from agentproxy.signer.checkpointfile import CHECKPOINT_RECORDS, CHECKPOINT_SECONDS
from agentproxy.signer.diagnosis import DamageKind
from agentproxy.signer.log import AuditLog, LogLimits, LogUnavailableError
from agentproxy.signer.logkey import LogKey, LogPublicKey, open_log_key, read_public_key
from agentproxy.signer.record import hash_of_line
from agentproxy.signer.verifylog import verify
from tests.signer.logs import LIMITS, NODE, signed

KEY = LogKey.generate()
SMALL = LogLimits(reserve_bytes=0, rotate_bytes=2000)  # three records a segment


def write(directory: Path, numbers: range, limits: LogLimits = LIMITS, key: LogKey | None = KEY) -> None:
    with AuditLog.open(directory, NODE, limits, key=key) as log:
        for number in numbers:
            log.append([signed(number)])


def checkpoints(directory: Path) -> list[Checkpoint]:
    return [Checkpoint.parse(line) for line in checkpoints_path(directory, NODE).read_bytes().splitlines()]


def rewrite(directory: Path, target: Path, limits: LogLimits = LIMITS, key: LogKey | None = None) -> None:
    """What a thief of the log's directory does: another log with consistent hashes."""
    target.mkdir()
    write(target, range(100, 110), limits, key)
    if key is None:
        for kind in ("checkpoints", "pub"):
            (target / f"{NODE}.{kind}").write_bytes((directory / f"{NODE}.{kind}").read_bytes())


@pytest.fixture(name="log")
def made_log(tmp_path: Path) -> Path:
    (tmp_path / "log").mkdir()
    write(tmp_path / "log", range(10))
    return tmp_path / "log"


def test_a_log_is_proven_by_its_public_key(log: Path) -> None:
    report = verify(log, keys=[KEY.public])
    assert (report.damage, report.records, report.covered) == (None, 10, 10)
    assert read_public_key(log / f"{NODE}.pub").pem == KEY.public.pem


def test_a_rewritten_log_with_consistent_hashes_does_not_fit_the_checkpoints(log: Path, tmp_path: Path) -> None:
    rewrite(log, tmp_path / "other")
    for keys in ((), (KEY.public,)):
        damage = verify(tmp_path / "other", keys=keys).damage
        assert damage is not None
        assert damage.kind is DamageKind.EDITED
    checkpoints_path(tmp_path / "other", NODE).unlink()
    assert verify(tmp_path / "other").damage is None  # only a key from outside proves anything


def test_a_log_that_was_cut_and_went_on_past_its_own_checkpoint_is_found_without_a_key(log: Path) -> None:
    (segment,) = log.glob("*.jsonl")
    kept = segment.read_bytes().splitlines(keepends=True)[:5]
    segment.write_bytes(b"".join(kept))
    saved = checkpoints_path(log, NODE).read_bytes()
    checkpoints_path(log, NODE).unlink()  # otherwise the signer would not go on
    write(log, range(20, 30))
    assert verify(log).damage is None
    checkpoints_path(log, NODE).write_bytes(saved)
    damage = verify(log).damage
    assert damage is not None
    assert (damage.kind, damage.sequence) == (DamageKind.EDITED, 10)


def test_a_log_with_checkpoints_of_another_key_is_forged(log: Path, tmp_path: Path) -> None:
    rewrite(log, tmp_path / "other", key=LogKey.generate())
    damage = verify(tmp_path / "other", keys=[KEY.public]).damage
    assert damage is not None
    assert damage.kind is DamageKind.FORGED
    assert "another key" in damage.explanation


def test_a_log_whose_checkpoints_were_taken_away_is_unproven(log: Path) -> None:
    checkpoints_path(log, NODE).unlink()
    damage = verify(log, keys=[KEY.public]).damage
    assert damage is not None
    assert damage.kind is DamageKind.UNPROVEN


def test_finished_segments_without_their_checkpoints_are_unproven(tmp_path: Path) -> None:
    write(tmp_path, range(10), SMALL)
    path = checkpoints_path(tmp_path, NODE)
    assert verify(tmp_path, keys=[KEY.public]).damage is None
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:1]))
    damage = verify(tmp_path, keys=[KEY.public]).damage
    assert damage is not None
    assert (damage.kind, damage.sequence) == (DamageKind.UNPROVEN, checkpoints(tmp_path)[0].head.sequence + 1)


@pytest.mark.parametrize("keys", [[], [KEY.public]])
def test_what_is_left_after_archiving_must_continue_what_the_checkpoint_names(
    tmp_path: Path, keys: list[LogPublicKey]
) -> None:
    (tmp_path / "log").mkdir()
    write(tmp_path / "log", range(12), LogLimits(reserve_bytes=0, rotate_bytes=2000))
    *finished, last = sorted((tmp_path / "log").glob("*.jsonl"))
    lines = checkpoints_path(tmp_path / "log", NODE).read_bytes().splitlines(keepends=True)
    checkpoints_path(tmp_path / "log", NODE).write_bytes(b"".join(lines[:-1]))
    for path in finished:
        path.unlink()
    assert verify(tmp_path / "log", keys=keys, archived=True).damage is None
    prev, forged = "ab" * 32, []
    for line in last.read_bytes().splitlines():
        forged.append(line[:-66] + prev.encode() + b'"}')
        prev = hash_of_line(forged[-1]).hex()
    last.chmod(0o640)
    last.write_bytes(b"".join(line + b"\n" for line in forged))
    damage = verify(tmp_path / "log", keys=keys, archived=True).damage
    assert damage is not None
    assert damage.kind is DamageKind.EDITED
    assert "than a saved head names" in str(damage)


def test_each_segment_ends_with_a_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, range(10), SMALL)
    segments = sorted(tmp_path.glob("*.jsonl"))
    ends = [json.loads(path.read_bytes().splitlines()[-1])["sequence"] for path in segments]
    assert len(ends) > 2
    assert set(ends) <= {checkpoint.head.sequence for checkpoint in checkpoints(tmp_path)}


def test_a_cut_end_shows_when_its_checkpoint_is_there(log: Path) -> None:
    (segment,) = log.glob("*.jsonl")
    segment.write_bytes(b"".join(segment.read_bytes().splitlines(keepends=True)[:-2]))
    for keys in ([KEY.public], []):  # without the public key it is no proof, and still a cut
        damage = verify(log, keys=keys).damage
        assert damage is not None
        assert (damage.kind, damage.sequence) == (DamageKind.CUT_OFF, 9)


def cut(log: Path, records: int) -> bytes:
    """Take the last records away and say what the segment was before."""
    (segment,) = log.glob("*.jsonl")
    content = segment.read_bytes()
    segment.write_bytes(b"".join(content.splitlines(keepends=True)[:-records]))
    return content


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("torn", [b"", b'{"sequence":9,'], ids=["whole lines", "half a line"])
def test_a_log_that_ends_before_its_checkpoint_is_not_continued_until_it_is_back(log: Path, torn: bytes) -> None:
    whole = cut(log, 2)
    (segment,) = log.glob("*.jsonl")
    segment.write_bytes(segment.read_bytes() + torn)
    before = files(log)
    with pytest.raises(ConfigError, match="the last checkpoint names record 10, and the audit log ends with record 8"):
        write(log, range(10, 12))
    assert files(log) == before
    segment.write_bytes(whole)
    write(log, range(10, 12))
    assert verify(log, keys=[KEY.public]).damage is None


def test_a_log_without_its_segments_is_not_begun_anew(log: Path) -> None:
    (segment,) = log.glob("*.jsonl")
    segment.unlink()
    with pytest.raises(ConfigError, match="names record 10, and the audit log ends with no record at all") as caught:
        write(log, range(10, 12))
    assert "put the missing segments back" in caught.value.hint
    assert not list(log.glob("*.jsonl"))


def test_another_record_in_the_last_checkpoints_place_is_not_continued(log: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write(tmp_path / "other", range(100, 110))
    (segment,) = (tmp_path / "other").glob("*.jsonl")
    (log / segment.name).write_bytes(segment.read_bytes())
    with pytest.raises(ConfigError, match="names another record 10"):
        write(log, range(10, 12))


def test_an_older_copy_goes_on_together_with_its_own_checkpoints(log: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(log, tmp_path / "copy")
    write(log, range(10, 12))
    for name, content in files(copy).items():
        (log / name).write_bytes(content)
    write(log, range(10, 13))
    assert verify(log, keys=[KEY.public]).damage is None


def test_zeros_instead_of_the_last_checkpoint_leave_the_one_before_it(log: Path) -> None:
    write(log, range(10, 12))
    path = checkpoints_path(log, NODE)
    *first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(first) + bytes(len(second) - 1) + b"\n")
    whole = cut(log, 3)
    with pytest.raises(ConfigError, match="names record 10, and the audit log ends with record 9"):
        write(log, range(12, 13))
    next(log.glob("*.jsonl")).write_bytes(whole)
    write(log, range(12, 13))


def test_a_cut_log_that_went_on_with_new_checkpoints_is_not_whole_without_a_key(log: Path) -> None:
    cut(log, 5)
    path = checkpoints_path(log, NODE)
    kept = path.read_bytes()
    path.unlink()
    write(log, range(20, 22))  # as a signer did that did not look at its checkpoints
    path.write_bytes(kept + path.read_bytes())
    damage = verify(log).damage
    assert damage is not None
    assert (damage.kind, damage.sequence) == (DamageKind.CUT_OFF, 8)


@pytest.mark.parametrize("old", [b'"sequence":10', b'"time":"2', b'"signature":"', b'"node":"node-1"', b'"hash":"'])
def test_no_byte_of_a_checkpoint_can_change(log: Path, old: bytes) -> None:
    path = checkpoints_path(log, NODE)
    content = path.read_bytes()
    at = content.rindex(old) + len(old)
    changed = b"1" if content[at : at + 1] != b"1" else b"2"
    path.write_bytes(content[:at] + changed + content[at + 1 :])
    damage = verify(log, keys=[KEY.public]).damage
    assert damage is not None
    assert damage.kind is DamageKind.FORGED


def test_checkpoints_in_another_order_are_forged(tmp_path: Path) -> None:
    write(tmp_path, range(10), SMALL)
    path = checkpoints_path(tmp_path, NODE)
    path.write_bytes(b"".join(reversed(path.read_bytes().splitlines(keepends=True))))
    damage = verify(tmp_path, keys=[KEY.public]).damage
    assert damage is not None
    assert (damage.kind, "follows" in damage.explanation) == (DamageKind.FORGED, True)


def test_what_a_crash_tore_off_a_checkpoint_is_written_over(log: Path) -> None:
    path = checkpoints_path(log, NODE)
    with path.open("ab") as file:
        file.write(b'{"checkpoint":1,"node":"no')
    assert any("is cut" in note for note in verify(log, keys=[KEY.public]).notes)
    write(log, range(10, 12))
    report = verify(log, keys=[KEY.public])
    assert (report.damage, report.covered, report.notes) == (None, 12, ())


def test_a_replaced_key_needs_both_public_keys(log: Path) -> None:
    other = LogKey.generate()
    write(log, range(10, 12), key=other)
    assert verify(log, keys=[other.public]).damage is not None
    report = verify(log, keys=[KEY.public, other.public])
    assert (report.damage, report.covered) == (None, 12)


def test_a_checkpoint_is_due_after_so_many_records(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path, NODE, LIMITS, key=KEY) as log:
        log.append([signed(0)])
        for _ in range(3):
            log.append([signed(1)] * (CHECKPOINT_RECORDS // 2))
        assert [checkpoint.head.sequence for checkpoint in checkpoints(tmp_path)] == [1, 1001]


def test_a_checkpoint_is_due_after_some_minutes_also_when_the_clock_jumps_back(tmp_path: Path) -> None:
    start, step = datetime(2026, 1, 1, tzinfo=UTC), timedelta(seconds=CHECKPOINT_SECONDS)
    times = [start]

    with AuditLog.open(tmp_path, NODE, LIMITS, lambda: times[-1], key=KEY) as log:
        for time in (start, start, start + step, start + step, start):
            times.append(time)
            log.append([signed(1)])
        assert [checkpoint.head.sequence for checkpoint in checkpoints(tmp_path)] == [1, 3, 5]
        log.append([signed(1)])
        times.append(start + step)
        log.keep_up()  # nothing was appended since
        assert checkpoints(tmp_path)[-1].head.sequence == 6


def test_a_checkpoint_that_cannot_be_written_stops_no_record(
    tmp_path: Path, read_only_checkpoints: AuditLog, caplog: pytest.LogCaptureFixture
) -> None:
    log = read_only_checkpoints
    for _ in range(3):
        assert log.append([signed(1)])[0] is not None
    with pytest.raises(LogUnavailableError, match="no checkpoint can be written"):
        log.checkpoint()
    assert len([entry for entry in caplog.records if "no checkpoint" in entry.message]) == 1


@pytest.fixture
def read_only_checkpoints(tmp_path: Path) -> Iterator[AuditLog]:
    """A log whose disk takes records and no checkpoints, as a full quota of the one file would."""
    (tmp_path / f"{NODE}.pub").write_bytes(KEY.public.pem)
    with AuditLog.open(tmp_path, NODE, LIMITS, key=KEY) as log:
        assert log._checkpoints is not None
        descriptor = log._checkpoints._fd
        with checkpoints_path(tmp_path, NODE).open("rb") as file:
            log._checkpoints._fd = file.fileno()
            yield log
            log._checkpoints._fd = descriptor


def test_a_log_without_a_key_says_that_it_takes_no_checkpoint(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path, NODE, LIMITS) as log, pytest.raises(LogUnavailableError, match="no checkpoints"):
        log.checkpoint()


def test_the_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "audit.key"
    made = open_log_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert open_log_key(path).public.id == made.public.id
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read it"):
        open_log_key(path)


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="expected an Ed25519 private key"):
        open_log_key(path)
    with pytest.raises(ConfigError, match="expected an Ed25519 public key"):
        read_public_key(path)


@pytest.mark.parametrize("line", [b"", b"{}", b"\xff", b'{"checkpoint":2}'])
def test_what_is_no_checkpoint_is_refused(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Checkpoint.parse(line)
