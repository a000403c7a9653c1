"""A disk that is full, read-only or failing: no signature leaves, and afterwards the log goes on."""

import contextlib
import errno
import os
import resource
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentproxy.protocol.codes import FailureCode
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.fields import Asserted
from agentproxy.protocol.signer_answers import DigestSigned, NotDone, StatusReport
from agentproxy.protocol.signer_requests import Outcome, Record, Status
from agentproxy.signer.log import AuditLog, LogLimits, LogUnavailableError
from agentproxy.signer.record import Entry
from agentproxy.signer.segment import ZEROS_AHEAD
from agentproxy.signer.verifylog import verify
from tests.signer.conftest import GnupgHome
from tests.signer.logs import LIMITS, NODE, records_in, refused, signed, write_log
from tests.signer.running import Client, signer, start, state, write_config

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounting and tracing need root")


@contextlib.contextmanager
def small_disk(directory: Path, size: str = "4m") -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", directory], check=True, timeout=20)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", directory], check=True, timeout=20)


def fill(directory: Path) -> Path:
    """Take all space that is left, to the last byte."""
    path = directory / "filler"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(descriptor, bytes(4096))
    os.close(descriptor)
    return path


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes: a full disk that needs no root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def append_without_zeros(log: AuditLog, number: int) -> None:
    """Write a record where there is room for it, and for only half of the zeros behind it."""
    with file_size_limit(ZEROS_AHEAD // 2):
        log.append([signed(number)])


@pytest.mark.parametrize("room", [0, 1, 100, 700])
def test_a_record_that_does_not_fit_leaves_nothing_behind(tmp_path: Path, room: int) -> None:
    with AuditLog.open(tmp_path, NODE, LIMITS) as log:
        append_without_zeros(log, 1)
        segment = next(tmp_path.iterdir())
        size = segment.stat().st_size
        with file_size_limit(size + room):
            for _ in range(3):
                with pytest.raises(LogUnavailableError, match="File too large"):
                    log.append([signed(2), signed(3)])
            assert segment.stat().st_size == size
            assert verify(tmp_path).damage is None
            assert log.trouble
        log.append([signed(4)])
        assert not log.trouble
    assert [record["request"] for record in records_in(tmp_path)] == [f"{1:032x}", f"{4:032x}"]


def test_what_nobody_waited_for_survives_a_full_disk(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path, NODE, LIMITS) as log:
        append_without_zeros(log, 1)
        log.append([refused(2)], durable=False)
        with file_size_limit(next(tmp_path.iterdir()).stat().st_size), pytest.raises(LogUnavailableError):
            log.append([signed(3)])
        log.append([signed(4)])
    assert [record["request"] for record in records_in(tmp_path)] == [f"{n:032x}" for n in (1, 2, 4)]


def test_where_zeros_have_no_room_the_file_grows_by_its_records_and_later_has_zeros_again(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path, NODE, LIMITS) as log:
        append_without_zeros(log, 0)
        segment = next(tmp_path.iterdir())
        assert segment.read_bytes().endswith(b"}\n")
        number = 0
        while segment.read_bytes().endswith(b"}\n"):
            number += 1
            log.append([signed(number)])
        assert ZEROS_AHEAD < len(segment.read_bytes().rstrip(b"\x00")) < ZEROS_AHEAD + 2000
    assert len(records_in(tmp_path)) == number + 1


@AS_ROOT
@pytest.mark.parametrize(("reserve", "zeros"), [(2 << 20, ZEROS_AHEAD), ((4 << 20) - ZEROS_AHEAD, 0)])
def test_zeros_take_nothing_of_the_reserve(tmp_path: Path, reserve: int, zeros: int) -> None:
    with small_disk(tmp_path), AuditLog.open(tmp_path, NODE, LogLimits(reserve_bytes=reserve)) as log:
        log.append([signed(1)])
        content = next(tmp_path.iterdir()).read_bytes()
        assert len(content) - len(content.rstrip(b"\x00")) == zeros


def test_a_new_segment_that_cannot_be_made_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path, NODE, LogLimits(0, 600)) as log:
        log.append([signed(1)])
        obstacle = tmp_path / "node-1-000000000002.jsonl"
        obstacle.mkdir()
        with pytest.raises(LogUnavailableError):
            log.append([signed(2)])
        obstacle.rmdir()
        log.append([signed(3)])
    assert [record["request"] for record in records_in(tmp_path)] == [f"{n:032x}" for n in (1, 3)]


def test_behind_the_name_of_a_new_segment_the_old_one_takes_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    limits = LogLimits(reserve_bytes=0, rotate_bytes=4000)
    with AuditLog.open(tmp_path, NODE, limits) as log:
        log.append([signed(1)])
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", failing)
            with pytest.raises(LogUnavailableError, match="Input/output error"):
                log.append([signed(number) for number in range(10)])
        log.append([signed(2)])  # the old one would have had room for it
    assert verify(tmp_path).damage is None
    write_log(tmp_path, 1, limits)
    assert [record["sequence"] for record in records_in(tmp_path)] == [1, 2, 3]


def reported(number: int) -> Entry:
    """What a relay says that it signed by itself."""
    asserted = Asserted(runner="builder", channel="fallback")
    return Entry("fallback_sign", Outcome.DONE, asserted, request=f"{number:032x}")


@AS_ROOT
@pytest.mark.parametrize("refused", [refused, reported])
def test_refusals_and_reports_cannot_use_the_space_that_signatures_need(
    tmp_path: Path, refused: Callable[[int], Entry]
) -> None:
    with small_disk(tmp_path):
        with AuditLog.open(tmp_path, NODE, LogLimits(reserve_bytes=2 << 20)) as log:
            written = [log.append([refused(number) for number in range(100)], durable=False) for number in range(100)]
            left_out = sum(place is None for places in written for place in places)
            assert left_out > 1000
            assert os.statvfs(tmp_path).f_bavail * 4096 > (2 << 20) - (1 << 18)
            for number in range(100):
                log.append([signed(number)])
        summary = next(record for record in records_in(tmp_path) if record["operation"] == "records_left_out")
        assert summary["details"] == {"suppressed": str(left_out)}
        assert verify(tmp_path).damage is None


@AS_ROOT
@pytest.mark.parametrize("size", ["4m", "128k"])  # the second has never had the room of the largest batch
def test_a_full_disk_stops_signatures_until_there_is_space_again(home: GnupgHome, size: str) -> None:
    grip = home.grips["ed25519"]
    with state(home, "ed25519") as directory, small_disk(directory / "audit", size):
        with signer(directory), Client(directory) as client:
            assert isinstance(client.sign(grip), DigestSigned)
            filler = fill(directory / "audit")
            answers = [client.sign(grip, number) for number in range(300)]  # the first ones fit into the zeros
            failed = [answer for answer in answers if isinstance(answer, NotDone)]
            assert failed
            assert {(answer.code, answer.retryable) for answer in failed} == {(FailureCode.NOT_OPERATIONAL, True)}
            assert "No space left on device" in failed[0].reason
            report = client.ask(Status(1))
            assert isinstance(report, StatusReport)
            assert not report.operational
            assert "No space left on device" in report.reason
            filler.unlink()
            assert isinstance(client.sign(grip), DigestSigned)
            report = client.ask(Status(2))
            assert isinstance(report, StatusReport)
            assert report.operational
        records = records_in(directory / "audit")
        released = 2 + sum(isinstance(answer, DigestSigned) for answer in answers)
        assert sum(record["outcome"] == "signed" for record in records) == released
        assert verify(directory / "audit").damage is None


def torn_log(directory: Path) -> Path:
    """A log that a crash left with half a record at its end."""
    write_log(directory, 1)
    (segment,) = directory.glob("*.jsonl")
    with segment.open("ab") as file:
        file.write(b"x" * 5000)
    return segment


def test_a_torn_end_without_room_to_save_it_stays_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    segment = torn_log(tmp_path)
    before = segment.read_bytes()
    with file_size_limit(2000):
        for _ in range(3):
            with pytest.raises(ConfigError, match="File too large") as caught:
                AuditLog.open(tmp_path, NODE, LIMITS)
            assert "limit of file sizes" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == [segment.name]
    assert segment.read_bytes() == before
    write_log(tmp_path, 1)
    assert [record["operation"] for record in records_in(tmp_path)] == ["sign", "recovered", "sign"]
    assert verify(tmp_path).damage is None


@AS_ROOT
def test_a_full_disk_at_the_start_is_told_as_that(tmp_path: Path) -> None:
    with small_disk(tmp_path):
        torn_log(tmp_path)
        filler = fill(tmp_path)
        names = {path.name for path in tmp_path.iterdir()}
        for _ in range(2):
            with pytest.raises(ConfigError, match="No space left on device") as caught:
                AuditLog.open(tmp_path, NODE, LIMITS)
            assert "make room" in caught.value.hint
        assert {path.name for path in tmp_path.iterdir()} == names
        filler.unlink()
        write_log(tmp_path, 1)
        assert [record["operation"] for record in records_in(tmp_path)] == ["sign", "recovered", "sign"]


@AS_ROOT
def test_a_read_only_disk_is_a_clear_error_at_start(home: GnupgHome) -> None:
    with state(home, "ed25519") as directory, small_disk(directory / "audit"):
        with signer(directory):
            pass
        subprocess.run(["mount", "-o", "remount,ro", directory / "audit"], check=True, timeout=20)
        process = start(directory)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 78
        assert "Read-only file system" in errors.decode()


@AS_ROOT
@pytest.mark.parametrize(
    ("call", "code", "reason"),
    [
        ("fdatasync", "EIO", "Input/output error"),
        ("pwrite64", "EIO", "Input/output error"),
        ("pwrite64", "EROFS", "Read-only file system"),
    ],
)
def test_a_failing_disk_releases_nothing_that_is_not_on_it(home: GnupgHome, call: str, code: str, reason: str) -> None:
    grip = home.grips["ed25519"]
    with state(home, "ed25519") as directory:
        # -D: the signer stays our own child, and gets our signals
        inject = ("strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={call}:error={code}:when=4..6")
        with signer(directory, *inject), Client(directory) as client:
            answers = [client.sign(grip, number) for number in range(12)]
        records = records_in(directory / "audit")
        released = [answer for answer in answers if isinstance(answer, DigestSigned)]
        failed = [answer for answer in answers if isinstance(answer, NotDone)]
        assert 0 < len(failed) < 12
        assert all(reason in answer.reason for answer in failed)
        assert sum(record["outcome"] == "signed" for record in records) == len(released)
        assert verify(directory / "audit", heads=[answer.head for answer in released]).damage is None


@AS_ROOT
def test_a_flood_of_refusals_leaves_room_for_signatures(home: GnupgHome) -> None:
    grip = home.grips["ed25519"]
    with state(home, "ed25519") as directory, small_disk(directory / "audit"):
        write_config(directory, audit={"directory": "audit", "reserve_bytes": 2 << 20})
        with signer(directory), Client(directory) as client:
            for first in range(0, 8000, 200):
                numbers = range(first, first + 200)
                asserted = Asserted(runner="flood")
                client.send(*(Record(n, "sign", Outcome.REFUSED, "x" * 500, asserted, durable=False) for n in numbers))
                answers = [client.receive() for _ in numbers]
            assert {type(answer) for answer in answers} == {NotDone}
            assert isinstance(client.sign(grip), DigestSigned)
        assert verify(directory / "audit").damage is None


def test_the_signals_of_file_limits_do_not_end_the_signer() -> None:
    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN  # Python's default; EFBIG is what we get instead
