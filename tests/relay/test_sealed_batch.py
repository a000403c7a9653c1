"""Batches with an oracle that answers as each test wants: what is told, when, and what is on the disk by then."""

import errno
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import BinaryIO

import pytest

from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import LocalProtocolError
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.key_messages import ServedKey
from agentproxy.protocol.seal_messages import Sealed
from relay.errors import UnreachableError
from relay.sealed import batch as batch_module
from relay.sealed import run as run_module
from relay.sealed.asker import Answer
from relay.sealed.batch import Batch
from relay.sealed.fate import Outcome, Result, Way
from relay.sealed.pieces import Package, read_package
from relay.signrequests import SealRequest
from tests.end_to_end.packages import build_packages
from tests.relay.test_sealer import HEAD, KEY, seal_of

SECONDS = 60
LOAD = threading.Event()  # a module that a test loads waits for it
WAY = Way(KEY, HashAlgorithm.SHA256)


class Asker:
    """Asks an oracle that answers at once, or when it is told to; tests/relay/test_asker.py has the real one."""

    def __init__(self, answer: Callable[[SealRequest], Sealed | Exception | None] | None = None) -> None:
        self.asked: list[SealRequest] = []
        self.given = 0
        self.most = 0
        self.at_work = threading.Lock()
        self._answer = answer or sealed
        self._answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()

    def ask(self, _: ServedKey, request: SealRequest) -> None:
        self.asked.append(request)
        self.most = max(self.most, len(self.asked) - self.given)
        answer = self._answer(request)
        if answer is not None:
            self.give(request, answer)

    def give(self, request: SealRequest, answer: Sealed | Exception) -> None:
        self._answers.put((request.id, answer))

    def answers(self, until: float = inf) -> list[Answer]:
        found: list[Answer] = []
        seconds = SECONDS if until == inf else max(0.0, until - time.monotonic())
        try:
            answer = self._answers.get(timeout=seconds)
            while answer is not None:
                found.append(answer)
                answer = self._answers.get_nowait()
        except queue.Empty:
            assert found or until < inf, "nobody ever answers"
        self.given += len(found)
        return found

    def wake(self) -> None:
        self._answers.put(None)


def sealed(request: SealRequest) -> Sealed:
    return Sealed(request.id, seal_of(request.state), HEAD)


def files_in(directory: Path, count: int) -> list[Path]:
    directory.mkdir(exist_ok=True)
    files = [directory / f"{number}" for number in range(count)]
    for file in files:
        file.write_text(file.name)
    return files


def signed(files: list[Path], asker: Asker | None = None, way: Way = WAY) -> list[Result]:
    told: list[Result] = []
    assert Batch(asker or Asker(), way, told.append).sign_detached(files)
    return told


@pytest.fixture(name="single")
def one_thread_that_waits_for_as_many_as_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_THREADS", 1)
    monkeypatch.setattr(run_module, "GATHER_SECONDS", 3600.0)


def test_an_asker_takes_one_run_at_a_time_and_another_one_behind_it(tmp_path: Path) -> None:
    told: list[Outcome] = []

    def tell(result: Result) -> None:
        for beside in (batch, Batch(asker, WAY, tell)):
            with pytest.raises(LocalProtocolError, match="an asker of its own"):
                beside.sign_detached([])
        told.append(result.outcome)

    asker = Asker()
    batch = Batch(asker, WAY, tell)
    for _ in range(2):
        assert batch.sign_detached(files_in(tmp_path, 1))
    assert told == [Outcome.SIGNED] * 2


def test_an_oracle_that_is_away_is_asked_again_in_the_next_run(tmp_path: Path) -> None:
    answers: list[Exception] = [UnreachableError("no oracle in reach")]
    told: list[Result] = []
    asker = Asker(lambda request: answers.pop() if answers else sealed(request))
    batch = Batch(asker, replace(WAY, jobs=1), told.append)
    assert batch.sign_detached(files_in(tmp_path, 3))
    assert [(result.outcome, result.reason) for result in told] == [
        (Outcome.FAILED, "no oracle in reach"),
        *[(Outcome.NOT_TRIED, "no oracle in reach")] * 2,
    ]
    assert len(asker.asked) == 1
    told.clear()
    assert batch.sign_detached(files_in(tmp_path, 1))
    assert [result.outcome for result in told] == [Outcome.SIGNED]


def test_no_signature_is_written_that_is_over_something_else(tmp_path: Path) -> None:
    def lie(request: SealRequest) -> Sealed:
        return Sealed(request.id, seal_of(request.state.updated(b"and more")), HEAD)

    (result,) = signed(files_in(tmp_path, 1), Asker(lie))
    assert result.outcome is Outcome.FAILED
    assert "signed something else" in result.reason
    assert [entry.name for entry in tmp_path.iterdir()] == ["0"]


def test_no_more_files_are_under_way_than_there_may_be(tmp_path: Path) -> None:
    asker = Asker()
    assert len(signed(files_in(tmp_path, 50), asker, replace(WAY, jobs=4))) == 50
    assert 1 <= asker.most <= 4


class Disk:
    """Keeps in which order files got their names, directories were synced, and users were told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[tuple[str, str]] = []
        self.broken = ""
        sync, place = run_module.sync_directory, os.replace

        def synced(directory: str) -> None:
            self.events.append(("synced", directory))
            if directory == self.broken:
                raise OSError(errno.EIO, "a fault")
            sync(directory)

        def placed(source: str, target: str) -> None:
            place(source, target)
            self.events.append(("placed", target))

        monkeypatch.setattr(run_module, "sync_directory", synced)
        monkeypatch.setattr(os, "replace", placed)

    def told(self, result: Result) -> None:
        self.events.append(("told", str(result.signature or result.file)))

    def syncs(self) -> list[str]:
        return [name for event, name in self.events if event == "synced"]


def test_nobody_is_told_of_a_file_whose_name_is_not_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    files = files_in(tmp_path / "a", 60) + files_in(tmp_path / "b", 60)
    assert Batch(Asker(), WAY, disk.told).sign_detached(files)
    for file in files:
        signature = f"{file}.asc"
        placed, told = disk.events.index(("placed", signature)), disk.events.index(("told", signature))
        assert ("synced", str(file.parent)) in disk.events[placed:told]


@pytest.mark.usefixtures("single")
def test_files_that_come_together_share_one_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    assert Batch(Asker(), WAY, disk.told).sign_detached(files_in(tmp_path, 64))
    assert disk.syncs() == [str(tmp_path)] * 4


@pytest.mark.usefixtures("single")
def test_the_last_file_waits_for_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    missing = tmp_path / "missing"
    assert Batch(Asker(), WAY, disk.told).sign_detached([*files_in(tmp_path, 1), missing])
    assert disk.syncs() == [str(tmp_path)]
    assert {name for event, name in disk.events if event == "told"} == {str(tmp_path / "0.asc"), str(missing)}


@pytest.mark.parametrize("threads", [1, 4])
def test_a_file_waits_for_slow_ones_only_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(run_module, "_THREADS", threads)
    slow: list[SealRequest] = []
    told: list[Path | None] = []

    def all_but_the_first(request: SealRequest) -> Sealed | None:
        if len(asker.asked) == 1:
            slow.append(request)
            return None
        return sealed(request)

    def tell(result: Result) -> None:
        told.append(result.signature)
        if len(told) == 1:
            asker.give(slow[0], sealed(slow[0]))

    asker = Asker(all_but_the_first)
    files = files_in(tmp_path, 2)
    assert Batch(asker, WAY, tell).sign_detached(files)
    assert told == [Path(f"{files[1]}.asc"), Path(f"{files[0]}.asc")]


@pytest.mark.parametrize("large", [1, 3])
def test_a_file_does_not_wait_for_large_ones_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    """Nobody else looks when its moment is over: all others wait, or read."""
    told: list[Path] = []
    is_told = threading.Event()
    hashed = run_module.state_of_file

    def slowly(file: BinaryIO, algorithm: HashAlgorithm, is_given_up: Callable[[], bool]) -> HashState:
        if Path(f"/proc/self/fd/{file.fileno()}").resolve().name != "0":
            assert is_told.wait(SECONDS)
        return hashed(file, algorithm, is_given_up)

    def tell(result: Result) -> None:
        told.append(result.file)
        is_told.set()

    monkeypatch.setattr(run_module, "state_of_file", slowly)
    files = files_in(tmp_path, 1 + large)
    assert Batch(Asker(), WAY, tell).sign_detached(files)
    assert told[0] == files[0]
    assert sorted(told) == files


def test_a_directory_that_cannot_be_brought_to_the_disk_is_no_other_ones_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    disk.broken = str(tmp_path / "a")
    told = signed(files_in(tmp_path / "a", 3) + files_in(tmp_path / "b", 3))
    fates = sorted((result.file.parent.name, result.outcome, result.reason) for result in told)
    reason = "it is signed, and may be as it was after a loss of power: a fault"
    assert fates == [("a", Outcome.FAILED, reason)] * 3 + [("b", Outcome.SIGNED, "")] * 3


def test_a_part_that_cannot_be_loaded_ends_the_run_with_what_it_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a disk that fails, half a file, or a panic of a library in Rust."""
    (tmp_path / "unloadable.py").write_text("raise BaseException('a panic')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(run_module, "_CHECKING", "unloadable")
    end = time.monotonic() + SECONDS
    batch = Batch(Asker(), WAY, lambda _: None, lambda: time.monotonic() > end)
    with pytest.raises(BaseException, match="a panic"):
        batch.sign_detached(files_in(tmp_path, 2))


def test_an_interrupted_run_begins_nothing_more(tmp_path: Path) -> None:
    interrupted: list[bool] = []
    told: list[Result] = []
    asker = Asker(lambda _: interrupted.append(True))  # type: ignore[func-returns-value]
    files = files_in(tmp_path, 3)
    batch = Batch(asker, replace(WAY, jobs=1), told.append, lambda: bool(interrupted))
    assert not batch.sign_detached(files)
    assert len(asker.asked) == 1
    assert not told
    assert sorted(tmp_path.iterdir()) == files


def test_an_answer_that_an_interrupted_run_did_not_wait_for_is_none_of_the_next_ones(tmp_path: Path) -> None:
    interrupted: list[bool] = []
    told: list[Outcome] = []

    def late(request: SealRequest) -> Sealed | None:
        if len(asker.asked) == 1:
            interrupted.append(True)
            return None
        asker.give(asker.asked[0], sealed(asker.asked[0]))
        return sealed(request)

    asker = Asker(late)
    batch = Batch(asker, WAY, lambda result: told.append(result.outcome), lambda: len(interrupted) == 1)
    files = files_in(tmp_path, 1)
    assert not batch.sign_detached(files)
    interrupted.append(True)
    assert batch.sign_detached(files)
    assert told == [Outcome.SIGNED]


@pytest.mark.parametrize("fault", ["OSError(5, 'a fault')", "ImportError('a fault')"])
def test_a_run_ends_whatever_keeps_what_it_checks_with_from_being_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A disk that cannot read, as many open files as there may be: not only what is not installed is missing."""
    (tmp_path / "broken_checks.py").write_text(f"raise {fault}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(run_module, "_CHECKING", "broken_checks")
    end = time.monotonic() + SECONDS
    batch = Batch(Asker(), WAY, lambda _: None, lambda: time.monotonic() > end)
    with pytest.raises((OSError, ImportError), match="a fault"):
        batch.sign_detached(files_in(tmp_path / "files", 2))


def test_nobody_wakes_the_asker_of_a_run_that_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its descriptors may be somebody else's by then."""
    (tmp_path / "slow_checks.py").write_text("from tests.relay.test_sealed_batch import LOAD; assert LOAD.wait(60)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(run_module, "_CHECKING", "slow_checks")
    woken: list[str] = []

    class Closing(Asker):
        def wake(self) -> None:
            woken.append("woken")
            super().wake()

    asker = Closing()
    assert not Batch(asker, WAY, lambda _: None, lambda: bool(asker.asked)).sign_detached(files_in(tmp_path / "a", 1))
    woken.clear()
    (loading,) = [thread for thread in threading.enumerate() if thread.name == "loading"]
    LOAD.set()
    loading.join(SECONDS)
    assert not loading.is_alive()
    assert not woken


def test_a_package_that_was_opened_before_its_other_name_was_signed_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was opened is the old one by then, and nobody works on it any more."""
    first, second = build_packages(tmp_path, ["one"])[0], tmp_path / "second.rpm"
    second.symlink_to(first)
    is_opened, is_signed = threading.Event(), threading.Event()

    def read(file: Path, way: Way) -> Package:
        package = read_package(file, way)
        if file == second and not is_opened.is_set():
            is_opened.set()
            assert is_signed.wait(SECONDS)
        return package

    def sealed_later(request: SealRequest) -> Sealed:
        assert is_opened.wait(SECONDS)
        return sealed(request)

    def tell(result: Result) -> None:
        told.append((result.file, result.outcome, result.reason))
        is_signed.set()

    told: list[tuple[Path, Outcome, str]] = []
    monkeypatch.setattr(batch_module, "read_package", read)
    assert Batch(Asker(sealed_later), WAY, tell).sign_rpms([first, second])
    assert told == [(first, Outcome.SIGNED, ""), (second, Outcome.SIGNED, "")]
