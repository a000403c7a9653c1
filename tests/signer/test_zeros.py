"""The zeros ahead of the last segment's end: there while it is in use, harmless after a crash, and nowhere else."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentproxy.protocol.errors import ConfigError
from agentproxy.signer.log import AuditLog, LogLimits
from agentproxy.signer.segment import ZEROS_AHEAD, mapped_file
from agentproxy.signer.verifylog import DamageKind, verify
from tests.signer.logs import LIMITS, NODE, in_use, records_in, refused, signed, write_log

SMALL = LogLimits(reserve_bytes=0, rotate_bytes=2000)  # three records a segment
DIE = """
import os, signal, sys
from pathlib import Path
from tests.signer.logs import LIMITS, NODE, signed
from agentproxy.signer.log import AuditLog
log = AuditLog.open(Path(sys.argv[1]), NODE, LIMITS)
for number in range(3):
    log.append([signed(number)])
os.kill(os.getpid(), signal.SIGKILL)
"""


def operations(directory: Path) -> list[object]:
    return [record["operation"] for record in records_in(directory)]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_records_go_into_zeros_that_are_there_and_an_orderly_end_cuts_the_rest_off(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path, NODE, LIMITS) as log:
        log.append([signed(0)])
        path = next(tmp_path.iterdir())
        size = path.stat().st_size
        assert path.read_bytes() == path.read_bytes().rstrip(b"\x00") + bytes(ZEROS_AHEAD)
        for number in range(1, 50):
            log.append([signed(number) if number % 3 else refused(number)], durable=bool(number % 3))
            assert path.stat().st_size == size
    assert path.read_bytes().endswith(b"}\n")
    assert len(records_in(tmp_path)) == 50


def test_each_step_of_zeros_is_followed_by_the_next(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path, NODE, LIMITS) as log:
        sizes = set()
        for number in range(600):
            log.append([signed(number)])
            sizes.add(next(tmp_path.iterdir()).stat().st_size)
            assert verify(tmp_path).damage is None
    assert len(sizes) == 3
    assert len(records_in(tmp_path)) == 600


def test_a_finished_segment_has_no_zeros_and_none_is_larger_than_it_may_become(tmp_path: Path) -> None:
    in_use(tmp_path, 10, SMALL)
    *finished, last = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    assert len(finished) == 3
    assert all(content.endswith(b"}\n") for content in finished)
    assert last.endswith(bytes(100))
    assert len(last) == SMALL.rotate_bytes


def test_a_killed_signer_leaves_records_and_nothing_to_tell(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DIE, str(tmp_path)], timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    assert next(tmp_path.iterdir()).read_bytes().endswith(bytes(1000))
    report = verify(tmp_path)
    assert (report.damage, report.records) == (None, 3)
    head = write_log(tmp_path, 1)
    assert operations(tmp_path) == ["sign"] * 4
    assert len(names(tmp_path)) == 1
    assert verify(tmp_path, heads=[head]).damage is None


def test_a_line_torn_at_any_byte_is_saved_without_the_zeros_behind_it(tmp_path: Path) -> None:
    content = in_use(tmp_path, 2)
    path = next(tmp_path.iterdir())
    kept, end = content.index(b"\n") + 1, content.rindex(b"\n") + 1
    for size in range(kept + 1, end):
        path.write_bytes(content[:size].ljust(len(content), b"\x00"))
        damage = verify(tmp_path).damage
        assert damage is not None
        assert (damage.kind, damage.sequence) == (DamageKind.TORN, 2)
        write_log(tmp_path, 1)
        assert operations(tmp_path) == ["sign", "recovered", "sign"]
        torn = path.with_name(f"{path.name}.torn-1")
        assert torn.read_bytes() == content[kept:size]
        assert verify(tmp_path).damage is None
        torn.unlink()


@pytest.mark.parametrize(("start", "stop"), [(0, 40), (40, 200), (200, -1), (200, -2)])
def test_a_line_with_zeros_in_it_is_saved_as_it_is(tmp_path: Path, start: int, stop: int) -> None:
    """A power loss may keep any of the blocks that were written last, and leave zeros where the others belong."""
    content = in_use(tmp_path, 3)
    path = next(tmp_path.iterdir())
    first, second, third, zeros = content.split(b"\n")
    second = second[:start] + bytes(len(second[start:stop])) + second[stop:]
    path.write_bytes(b"\n".join([first, second, third, zeros]))
    damage = verify(tmp_path).damage
    assert damage is not None
    assert (damage.kind, damage.sequence) == (DamageKind.TORN, 2)
    write_log(tmp_path, 1)
    assert operations(tmp_path) == ["sign", "recovered", "sign"]
    assert path.with_name(f"{path.name}.torn-1").read_bytes() == b"%s\n%s\n" % (second, third)
    assert verify(tmp_path).damage is None


@pytest.mark.parametrize("size", [1, 4096, ZEROS_AHEAD, ZEROS_AHEAD + 1, 1 << 20])
def test_a_file_of_nothing_but_zeros_is_torn_and_kept(tmp_path: Path, size: int) -> None:
    path = tmp_path / f"{NODE}-000000000001.jsonl"
    path.write_bytes(bytes(size))
    damage = verify(tmp_path).damage
    assert damage is not None
    assert (damage.kind, damage.sequence) == (DamageKind.TORN, 1)
    write_log(tmp_path, 1)
    assert operations(tmp_path) == ["recovered", "sign"]
    assert path.with_name(f"{path.name}.torn-1").read_bytes() == bytes(size)


def test_records_that_were_wiped_out_show_by_more_zeros_than_a_signer_writes(tmp_path: Path) -> None:
    content = in_use(tmp_path, 400)
    path = next(tmp_path.iterdir())
    kept = b"".join(content.splitlines(keepends=True)[:100])
    path.write_bytes(kept.ljust(len(content), b"\x00"))
    damage = verify(tmp_path).damage
    assert damage is not None
    assert (damage.kind, damage.sequence) == (DamageKind.TORN, 101)
    write_log(tmp_path, 1)
    assert operations(tmp_path)[99:] == ["sign", "recovered", "sign"]


def test_records_that_were_wiped_out_show_against_a_saved_head(tmp_path: Path) -> None:
    head = write_log(tmp_path, 10)
    path = next(tmp_path.iterdir())
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"\n") + 1].ljust(len(content), b"\x00"))
    damage = verify(tmp_path, heads=[head]).damage
    assert damage is not None
    assert (damage.kind, damage.sequence) == (DamageKind.CUT_OFF, 2)


def test_zeros_between_records_are_damage_from_there_on(tmp_path: Path) -> None:
    write_log(tmp_path, 3)
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes().replace(b"\n", b"\n\x00", 1))
    damage = verify(tmp_path).damage
    assert damage is not None
    assert (damage.kind, damage.sequence) == (DamageKind.TORN, 2)


@pytest.mark.parametrize("zeros", [1, 5000])
@pytest.mark.parametrize("number", [0, 1])
def test_zeros_behind_a_finished_segment_are_damage(tmp_path: Path, number: int, zeros: int) -> None:
    write_log(tmp_path, 9, SMALL)
    path = sorted(tmp_path.iterdir())[number]
    path.chmod(0o640)
    with path.open("ab") as file:
        file.write(bytes(zeros))
    damage = verify(tmp_path).damage
    assert damage is not None
    assert (damage.kind, damage.path, damage.sequence) == (DamageKind.CUT_OFF, str(path), 3 * number + 4)


def test_a_signer_does_not_continue_a_finished_segment_with_zeros(tmp_path: Path) -> None:
    write_log(tmp_path, 6, SMALL)
    path = sorted(tmp_path.iterdir())[0]
    path.chmod(0o640)
    with path.open("ab") as file:
        file.write(b"\x00")
    with pytest.raises(ConfigError, match="the audit log is damaged"):
        AuditLog.open(tmp_path, NODE, SMALL)


def test_who_reads_the_log_while_it_is_closed_touches_no_byte_that_is_cut_off(tmp_path: Path) -> None:
    """A mapped page behind a file's end ends the process that reads it."""
    log = AuditLog.open(tmp_path, NODE, LIMITS)
    log.append([signed(1)])
    with mapped_file(next(tmp_path.iterdir())) as data:
        log.close()
        assert data[:].endswith(b"}\n")
        assert len(data) == next(tmp_path.iterdir()).stat().st_size
