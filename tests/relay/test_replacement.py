"""A file is replaced whole or not at all, and only while it is what was read."""

import contextlib
import os
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from relay.sealed.errors import UnfitError
from relay.sealed.replacement import created, opened, replacement

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="another owner, mounts and tracing need root")
NOBODY = 0xFFFF_FFFF
AWKWARD = ["with blank", "it's", 'a "quote"', "$(touch intruder)", "ünïcode", "-dash", "new\nline", "\udcff", "n" * 255]


def replaced(path: Path, content: bytes = b"new", meanwhile: Callable[[Path], object] = lambda _: None) -> None:
    with opened(path) as original, replacement(original) as file:
        file.write(content)
        meanwhile(path)


def names_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


@pytest.mark.parametrize("name", AWKWARD)
def test_the_new_content_takes_the_place_of_the_old(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"old")
    replaced(file)
    assert file.read_bytes() == b"new"
    assert names_in(tmp_path) == [name]


@AS_ROOT
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o4755, 0o400])
def test_mode_and_owner_stay(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    os.chown(file, 12345, 54321)
    file.chmod(mode)
    replaced(file)
    status = file.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12345, 54321, mode)


# As the kernel keeps it (linux/posix_acl_xattr.h): nothing for the group, read and write for one more user.
ACCESS = b"\x02\0\0\0" + b"".join(
    struct.pack("<HHI", tag, permission, who)
    for tag, permission, who in [(1, 6, NOBODY), (2, 6, 1000), (4, 0, NOBODY), (16, 6, NOBODY), (32, 0, NOBODY)]
)
ACCESS_LIST, DEFAULT_LIST = "system.posix_acl_access", "system.posix_acl_default"


@AS_ROOT
def test_the_group_stays_in_a_directory_that_gives_its_own(tmp_path: Path) -> None:
    os.chown(tmp_path, 0, 54321)
    tmp_path.chmod(0o2775)
    file = tmp_path / "file"
    file.write_bytes(b"old")
    os.chown(file, 0, 0)
    replaced(file)
    assert (file.stat().st_uid, file.stat().st_gid) == (0, 0)


def test_access_list_and_attributes_stay(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    os.setxattr(file, ACCESS_LIST, ACCESS)
    os.setxattr(file, "user.note", b"kept")
    replaced(file)
    assert os.getxattr(file, ACCESS_LIST) == ACCESS
    assert os.getxattr(file, "user.note") == b"kept"


def test_nobody_gets_access_from_the_directory(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    file.chmod(0o660)
    os.setxattr(tmp_path, DEFAULT_LIST, ACCESS)
    replaced(file)
    assert ACCESS_LIST not in os.listxattr(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o660


def test_symbolic_links_lead_to_the_file_that_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real/file")
    replaced(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_bytes() == b"new"


def fail(_: Path) -> None:
    raise UnfitError("a fault")


def test_an_error_while_it_is_written_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    with pytest.raises(UnfitError):
        replaced(file, b"half of", fail)
    assert file.read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


def overwrite(file: Path) -> None:
    file.write_bytes(b"sly")  # as many bytes


def overwrite_and_turn_the_clock_back(file: Path) -> None:
    status = file.stat()
    file.write_bytes(b"sly")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def append(file: Path) -> None:
    with file.open("ab") as opened_file:
        opened_file.write(b"more")


def exchange(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(b"sly")
    other.replace(file)


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (overwrite, [b"sly"]),
        (overwrite_and_turn_the_clock_back, [b"sly"]),
        (append, [b"oldmore"]),
        (exchange, [b"sly"]),
        (Path.unlink, []),
    ],
)
def test_a_file_that_changes_meanwhile_is_not_replaced(
    tmp_path: Path, change: Callable[[Path], object], left: list[bytes]
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    os.utime(file, (1_000_000_000, 1_000_000_000))
    until_the_clock_of_the_file_system_ticks(file)
    with pytest.raises(UnfitError, match="while it was signed"):
        replaced(file, b"new", change)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == left


def until_the_clock_of_the_file_system_ticks(file: Path) -> None:
    """Some count in steps of 4 ms."""
    probe = file.with_name("probe")
    deadline = time.monotonic() + 10
    probe.touch()
    while probe.stat().st_ctime_ns <= file.stat().st_ctime_ns:
        assert time.monotonic() < deadline
        probe.chmod(0o600)
    probe.unlink()


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnfitError, match="regular"), opened(tmp_path / "pipe"):
        pass
    with pytest.raises(OSError, match=r"directory|regular"), opened(tmp_path):
        pass


def test_a_new_file_has_its_mode_and_may_take_the_place_of_another(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        with created(tmp_path / "file.asc", 0o640) as file:
            file.write(content)
    assert (tmp_path / "file.asc").read_bytes() == b"two"
    assert stat.S_IMODE((tmp_path / "file.asc").stat().st_mode) == 0o640


@AS_ROOT
def test_a_new_file_of_root_s_belongs_to_the_owner_of_its_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 54321)
    with created(tmp_path / "file.asc", 0o640) as file:
        file.write(b"new")
    status = (tmp_path / "file.asc").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12345, 54321, 0o640)


def test_a_file_system_without_unnamed_files_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)  # EISDIR, as such file systems answer
    file = tmp_path / "file"
    file.write_bytes(b"old")
    replaced(file)
    assert file.read_bytes() == b"new"
    assert names_in(tmp_path) == ["file"]


PROGRAM = """
import sys
from pathlib import Path
from relay.sealed.replacement import opened, replacement, sync_directory
with opened(Path(sys.argv[1])) as original, replacement(original) as file:
    file.write(b"new" * 100000)
sync_directory(original.directory)
"""


@AS_ROOT
@pytest.mark.parametrize(
    ("call", "left"),
    [("fchmod", b"old"), ("fsync:when=1", b"old"), ("linkat", b"old"), ("rename", b"old"), ("fsync:when=2", b"new")],
)
def test_a_kill_at_any_step_leaves_the_old_file_or_the_new_one(tmp_path: Path, call: str, left: bytes) -> None:
    name, _, when = call.partition(":")
    file = tmp_path / "file"
    file.write_bytes(b"old")
    inject = f"inject={name}:signal=KILL" + (f":{when}" if when else "")
    tracer = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={name}", "-e", inject]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*tracer, sys.executable, "-c", PROGRAM, str(file)], check=False, timeout=60, env=environment)
    assert done.returncode != 0
    assert file.read_bytes() in {left, left * 100000}
    # A name of its own the new file has for a moment only, and none that anybody takes for a package.
    assert all(entry == "file" or entry.startswith(".blind-oracle-") for entry in names_in(tmp_path))


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", directory], check=True, timeout=20)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", directory], check=True, timeout=20)


@AS_ROOT
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    with small_disk(tmp_path):
        file = tmp_path / "file"
        file.write_bytes(b"old" * 10_000)
        with pytest.raises(OSError, match="No space left"):
            replaced(file, b"new" * 30_000)
        assert file.read_bytes() == b"old" * 10_000
        assert names_in(tmp_path) == ["file"]


def unfit(_: Path) -> NoReturn:
    raise UnfitError("it changed")


@AS_ROOT
def test_what_failed_is_told_although_more_fails_behind_it(tmp_path: Path) -> None:
    """What a small file still holds would be written once more when it is let go, and fail with less to say."""
    with small_disk(tmp_path):
        file = tmp_path / "file"
        file.write_bytes(b"old")
        with contextlib.suppress(OSError):
            (tmp_path / "rest").write_bytes(bytes(1 << 20))
        with pytest.raises(OSError, match=r"^\[Errno 28\] it cannot be replaced: No space left"):
            replaced(file)
        with pytest.raises(UnfitError, match="changed"):
            replaced(file, meanwhile=unfit)
        assert file.read_bytes() == b"old"
        assert names_in(tmp_path) == ["file", "rest"]


@AS_ROOT
@pytest.mark.parametrize(
    ("owner", "mode", "told"),
    [
        (0, 0o555, "no new file can be made in '{}': Permission denied"),
        (12345, 0o755, "cannot be given to its owner, user 12345 and group 54321; sign as that user, "),
    ],
)
def test_who_may_not_replace_a_file_hears_what_is_in_the_way(tmp_path: Path, owner: int, mode: int, told: str) -> None:
    """The kernel's word alone, of a file that can be read, tells neither."""
    file = tmp_path / "file"
    file.write_bytes(b"old")
    os.chown(file, owner, 54321)
    tmp_path.chmod(mode)
    without_powers = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*without_powers, sys.executable, "-c", PROGRAM, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert told.format(tmp_path) in done.stderr
    assert (file.read_bytes(), names_in(tmp_path)) == (b"old", ["file"])
