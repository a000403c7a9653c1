import fcntl
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agentproxy.runtime.peer import Peer
from relay import procfs
from relay.rpmheader import Package
from relay.workfile import WorkFile, find_work_file
from tests.end_to_end.packages import build_packages
from tests.relay.callers import process_like

ONE, TWO = Package("one-0:1.0-1.noarch"), Package("two-0:1.0-1.noarch")


@pytest.fixture(name="packages", scope="module")
def built_packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    one, two = build_packages(tmp_path_factory.mktemp("packages"), ["one", "two"])
    return one, two


def found(*peers: Peer) -> WorkFile | None:
    """What is found for the first, which the second has called, and so on."""
    lineage = [process for peer in peers if (process := procfs.process(peer.pid)) is not None]
    assert len(lineage) == len(peers)
    return find_work_file(lineage)


def test_of_several_packages_on_rpmsigns_command_line_the_open_one_is_it(packages: tuple[Path, Path]) -> None:
    one, two = packages
    names = [one.name, two.name]
    with process_like("gpg", "-u", "key", "-sbo", "/tmp/sig", "--", "-") as gpg:
        with process_like("/usr/bin/rpmsign", "--addsign", *names, held=[two], directory=one.parent) as rpmsign:
            assert found(gpg, rpmsign) == WorkFile(str(two), TWO)
        with process_like("rpmsign", "--addsign", *names, held=[one], directory=one.parent) as rpmsign:
            assert found(gpg, rpmsign) == WorkFile(str(one), ONE)
        with process_like("rpmsign", "--addsign", *names, directory=one.parent) as rpmsign:
            assert found(gpg, rpmsign) is None


def test_a_single_package_that_is_not_open_is_read_by_its_path(packages: tuple[Path, Path]) -> None:
    one, _ = packages
    with process_like("rpmsign", "--addsign", one.name, directory=one.parent) as rpmsign:
        assert found(rpmsign) == WorkFile(str(one), ONE)
    with process_like("rpmsign", "--define", "_gpg_name x", "--addsign", str(one)) as rpmsign:
        assert found(rpmsign) == WorkFile(str(one), ONE)


def test_a_package_behind_a_link_is_found_by_what_is_open(packages: tuple[Path, Path], tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(packages[0])
    with process_like("rpmsign", "--addsign", str(link), held=[link]) as rpmsign:
        assert found(rpmsign) == WorkFile(str(packages[0]), ONE)


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (["--detach-sign", "--armor", "repomd.xml"], "repomd.xml"),
        (["-u", "key", "--output", "x.asc", "-bsa", "--digest-algo", "SHA512", "repomd.xml"], "repomd.xml"),
        (["--status-fd=2", "-bsau", "key"], None),
        (["--homedir", "/x", "-sbo", "out", "--", "-file"], "-file"),
        (["--detach-sign", "-"], None),
        (["-b", "one", "two"], None),
        ([], None),
    ],
)
def test_the_file_on_gpgs_own_command_line(tmp_path: Path, words: Sequence[str], file: str | None) -> None:
    with process_like("/usr/bin/gpg2", *words, directory=tmp_path) as gpg:
        assert found(gpg) == (None if file is None else WorkFile(str(tmp_path / file)))


def fifo(path: Path) -> None:
    os.mkfifo(path)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(4 * 2**30 + 1)


def unreadable(path: Path) -> None:
    path.write_bytes(b"\xed\xab\xee\xdb" + b"\xff" * 300)


def loop(path: Path) -> None:
    path.symlink_to(path)


def missing(path: Path) -> None:
    assert not path.exists()


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [fifo, huge, unreadable, loop, device, Path.mkdir, missing])
def test_what_is_no_package_has_a_name_and_nothing_else_and_holds_nobody_up(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    path = tmp_path / "x.rpm"
    make(path)
    with process_like("rpmsign", "--addsign", str(path)) as rpmsign:
        assert found(rpmsign) == WorkFile(str(path))


@pytest.mark.parametrize("make", [fifo, huge, unreadable])
def test_the_same_when_it_is_open(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "x.rpm"
    make(path)
    with process_like("rpmsign", "--addsign", str(path), held=[path]) as rpmsign:
        assert found(rpmsign) == WorkFile(str(path))


def test_a_file_under_a_lease_holds_nobody_up(packages: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "x.rpm"
    path.write_bytes(packages[0].read_bytes())
    # Whoever owns a file can make everybody wait who opens it, for 45 s: fcntl(2), F_SETLEASE.
    held = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(held, fcntl.F_SETSIG, signal.SIGURG)  # which nobody minds
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        with pytest.raises(BlockingIOError):
            procfs.open_regular(str(path), follow=False)
    finally:
        os.close(held)


def test_a_package_that_was_deleted_and_replaced_meanwhile_is_the_one_that_is_open(
    packages: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / "x.rpm"
    path.write_bytes(packages[0].read_bytes())
    with process_like("rpmsign", "--addsign", str(path), held=[path]) as rpmsign:
        path.unlink()
        assert found(rpmsign) == WorkFile(str(path), ONE)
        path.write_text("another")
        assert found(rpmsign) == WorkFile(str(path), ONE)
