import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.files import make_directory, read_beginning, read_private, write_atomically


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_is_replaced_whole_with_its_mode_and_nothing_is_left_over(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "f"
    for data in (b"old", b"new and longer"):
        write_atomically(file, data, mode)
        assert file.read_bytes() == data
    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert list(tmp_path.iterdir()) == [tmp_path / "f"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "f", b"x", 0o600)
    assert list(tmp_path.iterdir()) == [tmp_path / "f"]


def test_a_full_disk_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(tmp_path / "f", b"x", 0o600)
    assert caught.value.filename == str(tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


def test_a_symbolic_link_is_replaced_and_its_target_untouched(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("kept")
    (tmp_path / "f").symlink_to("target")
    write_atomically(tmp_path / "f", b"x", 0o600)
    assert (tmp_path / "target").read_text() == "kept"
    assert not (tmp_path / "f").is_symlink()


def test_a_private_file_is_read(tmp_path: Path) -> None:
    write_atomically(tmp_path / "f", b"secret", 0o600)
    assert read_private(tmp_path / "f") == b"secret"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_secret_that_others_may_read_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    (tmp_path / "f").write_text("secret")
    (tmp_path / "f").chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}") as caught:
        read_private(tmp_path / "f")
    assert caught.value.hint == f"chmod 600 {tmp_path / 'f'}"


def test_a_missing_file_a_directory_and_a_fifo_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name, words in (("gone", "No such file"), (".", "expected a file"), ("fifo", "expected a file")):
        with pytest.raises(ConfigError, match=words):
            read_private(tmp_path / name)


def test_a_secret_that_opens_and_then_cannot_be_read_is_a_clear_error() -> None:
    # Ours, a file, for nobody else, and nothing is mapped where it begins: like a disk with a bad sector.
    with pytest.raises(ConfigError, match="/proc/self/mem: cannot be read: Input/output error"):
        read_private(Path("/proc/self/mem"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_somebody_elses_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("secret")
    (tmp_path / "f").chmod(0o600)
    os.chown(tmp_path / "f", 12345, -1)
    with pytest.raises(ConfigError, match="belongs to uid 12345"):
        read_private(tmp_path / "f")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_belongs_to_the_owner_of_its_directory(tmp_path: Path) -> None:
    place = tmp_path / "daemon"
    place.mkdir()
    os.chown(place, 12345, 12346)
    make_directory(place / "a" / "b", 0o700)
    write_atomically(place / "a" / "b" / "secret", b"x", 0o600)
    for path in (place / "a", place / "a" / "b", place / "a" / "b" / "secret"):
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346), path
    assert stat.S_IMODE((place / "a" / "b").stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_reads_a_daemons_secret_in_the_daemons_own_directory_only(tmp_path: Path) -> None:
    place = tmp_path / "daemon"
    place.mkdir()
    os.chown(place, 12345, 12345)
    write_atomically(place / "token", b"x", 0o600)
    assert read_private(place / "token") == b"x"
    foreign = tmp_path / "token"
    write_atomically(foreign, b"x", 0o600)
    os.chown(foreign, 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to uid 12345"):
        read_private(foreign)


def test_the_beginning_of_a_file_is_read_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abcdef")
    assert read_beginning(tmp_path / "f", 4) == b"abcd"
    (tmp_path / "link").symlink_to("f")
    assert read_beginning(tmp_path / "link", 100) == b"abcdef"


def test_a_pipe_that_is_open_already_is_read_to_its_end() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb") as writer, ThreadPoolExecutor(1) as pool:
        content = pool.submit(read_beginning, Path(f"/dev/fd/{reading}"), 100)
        writer.write(b"abc")
        writer.flush()
        writer.write(b"def")
        writer.close()
        assert content.result(20) == b"abcdef"


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["fifo", "link to a fifo", "device"])
def test_what_may_never_be_written_to_is_no_file_to_read(tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    path = {"fifo": tmp_path / "fifo", "link to a fifo": tmp_path / "link", "device": Path("/dev/zero")}[kind]
    with pytest.raises(ConfigError, match="expected a file"):
        read_beginning(path, 100)


def test_what_cannot_be_read_from_its_beginning_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gone: cannot be read: No such file"):
        read_beginning(tmp_path / "gone", 1)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_beginning(tmp_path, 1)
