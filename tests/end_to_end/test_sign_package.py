"""sign-package.sh as a build script runs it: many files, strange names, and reasons for what is not signed."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.fallbackhost import fallback_host
from tests.end_to_end.offline import Offline
from tests.end_to_end.packages import build_packages, is_signed
from tests.end_to_end.place import SECONDS, Done, System, forget_home, system_with, until

SCRIPT = Path(__file__).parents[2] / "relay" / "sign-package.sh"
AWKWARD = (
    "with blank",
    "it's",
    'a "quote"',
    "$(touch intruder)",
    "`touch intruder`",
    "-dash",
    "percent%s",
    "%(touch intruder)",
    "%%",
    "[a]*",
    "new\nline",
    "NOKEY",
)
SHELLS = ("dash", "bash")
NUMBER = 12


@pytest.fixture(name="made", scope="module")
def system_with_distributions(offline: Offline) -> Iterator[System]:
    """el10 and el7 have sockets of their own: only then may their keys be used."""
    with system_with({name: offline.exports[name] for name in ("modern", "legacy")}) as system:
        config = system.directory / "relay" / "relay.yaml"
        sockets = "".join(
            f"  - path: run/S.{name}\n    name: {name}\n    distribution: {name}-x86_64\n" for name in ("el10", "el7")
        )
        config.write_text(config.read_text().replace("sockets:\n", f"sockets:\n{sockets}"))
        system.restrict({"modern": "el10-*", "legacy": "el7-*"})
        system.wait_for_claims()
        homes = [system.directory / "relay" / name for name in ("el10", "el7")]
        for home in homes:
            done = system.run(
                "blind-oracle-relay", "setup", "--home", home, "--socket", system.socket.with_name(f"S.{home.name}")
            )
            assert done.returncode == 0, done.stderr
        try:
            yield system
        finally:
            for home in homes:
                forget_home(home)


@pytest.fixture(name="packages", scope="module")
def unsigned_packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return build_packages(tmp_path_factory.mktemp("packages"), ["one", "two"])


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bo") as name:
        yield Path(name)


def sign(system: System, at: Path, *words: str | Path, shell: str = "dash", **also: str) -> Done:
    environment = {**system.environment, **also}
    return subprocess.run(
        [shell, str(SCRIPT), *map(str, words)],
        env=environment,
        cwd=at,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_it_is_clean_shell() -> None:
    subprocess.run(["shellcheck", SCRIPT], check=True, timeout=SECONDS)


@pytest.mark.parametrize("shell", SHELLS)
def test_packages_and_metadata_are_signed_for_their_distribution(
    system: System, offline: Offline, packages: list[Path], place: Path, shell: str
) -> None:
    files = [Path(shutil.copy(package, place)) for package in packages]
    metadata = place / "repomd.xml"
    metadata.write_text("<repomd/>")
    job = {"CI_JOB_ID": "4711", "CI_PROJECT_PATH": "group/a project"}
    done = sign(system, place, "--distribution", "el10-x86_64", *files, metadata, shell=shell, **job)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"signed: {file}" for file in (*files, metadata)]
    assert all(is_signed(system, offline, "modern", file, place / "rpmdb") for file in files)
    checked = system.gpg("--status-fd", "1", "--verify", f"{metadata}.asc", metadata)
    assert f"VALIDSIG {offline.fingerprints['modern']} " in checked.stdout
    asserted = system.signed()[-1]["asserted"]
    assert isinstance(asserted, dict)
    assert asserted["distribution"] == "el10-x86_64"
    assert asserted["claims"]["job"] == {"job": "4711", "project": "group/a project"}


def test_the_distribution_chooses_key_and_home(
    system: System, offline: Offline, packages: list[Path], place: Path
) -> None:
    package = Path(shutil.copy(packages[0], place))
    done = sign(system, place, "--distribution=el7-x86_64", "--key-type=legacy", package)
    assert done.returncode == 0, done.stderr
    assert is_signed(system, offline, "legacy", package, place / "rpmdb")


@pytest.mark.parametrize("shell", SHELLS)
def test_no_name_is_too_strange(system: System, packages: list[Path], place: Path, shell: str) -> None:
    files = [f"{name}.{ending}" for name in AWKWARD for ending in ("rpm", "xml")]
    for name in files:
        shutil.copy(packages[0], place / name)
    done = sign(system, place, "--distribution", "el10-x86_64", "--", *files, shell=shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == len(files)
    assert {f"{name}.asc" for name in files if name.endswith(".xml")} == {file.name for file in place.glob("*.asc")}
    assert {file.name.removesuffix(".asc") for file in place.iterdir()} == set(files)
    assert "signed: new?line.rpm" in done.stdout


def test_a_directory_whose_name_is_a_macro_runs_nothing(
    system: System, offline: Offline, packages: list[Path], place: Path
) -> None:
    """rpmsign expands what it hands to gpg, and a macro can be a command of the shell."""
    directory = place / "%(touch intruder)"
    directory.mkdir()
    package = Path(shutil.copy(packages[0], directory))
    done = sign(system, place, "--distribution", "el10-x86_64", package, package.relative_to(place))
    assert (done.returncode, done.stderr) == (0, "")
    assert {file.relative_to(place) for file in place.rglob("*")} == {
        directory.relative_to(place),
        package.relative_to(place),
    }
    assert is_signed(system, offline, "modern", Path(package.rename(place / "one.rpm")), place / "rpmdb")


def test_more_files_than_one_batch_keep_their_order(system: System, place: Path) -> None:
    files = [f"{number}.xml" for number in range(NUMBER)]
    for name in files:
        (place / name).write_text(name)
    script = place / "small-batches.sh"
    script.write_text(SCRIPT.read_text().replace("batch=100", "batch=5"))
    environment = system.environment
    done = subprocess.run(
        ["sh", script, "--distribution", "el10-x86_64", *files],
        env=environment, cwd=place, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == [f"signed: {name}" for name in files], done.stderr


def test_what_is_not_signed_is_counted_and_has_the_relays_reason(
    system: System, packages: list[Path], place: Path
) -> None:
    """The home of no distribution: the key is for el10, and nobody but the caller says that this is el10."""
    package = Path(shutil.copy(packages[0], place))
    before = package.read_bytes()
    (place / "a.xml").write_text("a")
    homes = system.directory / "relay" / "homes.yaml"
    homes.rename(homes.with_suffix(".away"))
    try:
        done = sign(system, place, "--distribution", "el10-x86_64", package, "missing.rpm", "a.xml")
    finally:
        homes.with_suffix(".away").rename(homes)
    assert done.returncode == 3
    assert done.stdout == ""
    reports = done.stderr.split("NOT SIGNED: ")
    assert "    the relay: refused modern: distribution_missing: " in reports[1]
    assert "Forbidden" in reports[1]
    assert reports[2].splitlines()[1] == "    there is no such file"
    assert "distribution_missing" in reports[3]
    assert "sign-package: 3 of 3 files are not signed" in done.stderr
    assert package.read_bytes() == before
    assert {file.name for file in place.iterdir()} == {package.name, "a.xml"}


def test_a_directory_in_the_signatures_place_is_not_called_a_signature(system: System, place: Path) -> None:
    (place / "a.xml").write_text("a")
    (place / "a.xml.asc").mkdir()
    done = sign(system, place, "--distribution", "el10-x86_64", "a.xml")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot overwrite directory" in done.stderr
    assert {file.name for file in place.rglob("*")} == {"a.xml", "a.xml.asc"}


def test_without_a_key_nothing_is_tried_and_every_file_counts(system: System, place: Path) -> None:
    done = sign(system, place, "--distribution", "el6-x86_64", "a.rpm", "b.rpm")
    assert done.returncode == 2
    assert "sign-package: error: no key: " in done.stderr
    assert "keys: none for el6-x86_64" in done.stderr
    many = sign(system, place, "--distribution", "el6-x86_64", *(f"{number}.xml" for number in range(300)))
    assert many.returncode == 125


@pytest.mark.parametrize("shell", SHELLS)
def test_an_interrupted_run_leaves_nothing_beside_the_files(
    system: System, packages: list[Path], place: Path, shell: str
) -> None:
    """As a terminal interrupts it, with all that it runs, while gpg waits for a signature."""
    names = {"a.xml", "b.rpm", "%%.rpm"}
    for name in names:
        shutil.copy(packages[0], place / name)
    oracle = system.pid("oracle")
    assert oracle is not None
    os.kill(oracle, signal.SIGSTOP)
    try:
        process = subprocess.Popen(
            [shell, SCRIPT, "--key-type", "modern", *names], env=system.environment, cwd=place, start_new_session=True
        )
        until(lambda: len(list(place.iterdir())) == 2 * len(names) + 1, "each gpg has begun to write")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(SECONDS) == 130
        until(lambda: {file.name for file in place.iterdir()} == names, "those who sign have ended, too")
    finally:
        os.kill(oracle, signal.SIGCONT)


def test_a_file_where_rpmsign_would_put_its_work_is_named_and_kept(
    system: System, packages: list[Path], place: Path
) -> None:
    """gpg would ask at the terminal whether to overwrite it."""
    package = Path(shutil.copy(packages[0], place))
    rest = place / f"{package.name}.sig"
    rest.write_text("somebody's")
    done = sign(system, place, "--distribution", "el10-x86_64", package)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[1] == f"    {rest}: is in the way of rpmsign: move it away, or remove it"
    assert rest.read_text() == "somebody's"


def test_an_rpm_that_is_damaged_is_not_called_signed(system: System, packages: list[Path], place: Path) -> None:
    good, bad = (Path(shutil.copy(package, place)) for package in packages)
    bad.write_bytes(bad.read_bytes()[:-40])
    done = sign(system, place, "--distribution", "el10-x86_64", good, bad)
    assert done.returncode == 1
    assert done.stdout == f"signed: {good}\n"
    assert f"NOT SIGNED: {bad}\n" in done.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "no files"),
        (("--distribution",), "--distribution needs a value"),
        (("--frobnicate", "a"), "unknown option --frobnicate"),
        (("--jobs", "0", "a"), "--jobs: expected a number from 1 to 999"),
        (("--jobs=12345678901234567890", "a"), "--jobs: expected a number from 1 to 999"),
    ],
)
def test_wrong_usage_says_what_is_right(system: System, place: Path, words: tuple[str, ...], problem: str) -> None:
    done = sign(system, place, *words)
    assert done.returncode == 1
    assert f"sign-package: error: {problem}" in done.stderr
    assert "usage: sign-package.sh [--distribution NAME]" in done.stderr


def test_without_a_relay_it_says_so(system: System, place: Path) -> None:
    (place / "a.xml").write_text("a")
    done = sign(system, place, "a.xml", BLIND_ORACLE_RELAY_CONFIG=str(place / "relay.yaml"))
    assert done.returncode == 1
    assert "relay.yaml: cannot be read" in done.stderr
    assert [file.name for file in place.iterdir()] == ["a.xml"]


def test_what_is_signed_by_fallback_is_said_loudly(offline: Offline, packages: list[Path], place: Path) -> None:
    package = Path(shutil.copy(packages[0], place))
    (place / "repomd.xml").write_text("<repomd/>")
    with fallback_host(offline) as host:
        host.system.wait_for_claims()
        before = sign(host.system, place, package)
        assert (before.returncode, before.stdout, before.stderr) == (0, f"signed: {package}\n", "")
        host.on(reason="a drill")
        done = sign(host.system, place, package, "repomd.xml")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [f"signed, BY FALLBACK: {name}" for name in (package, "repomd.xml")]
        assert "*** 2 of 2 files were signed BY FALLBACK: with this host's own key" in done.stderr
        checked = host.system.gpg("--status-fd", "1", "--verify", place / "repomd.xml.asc", place / "repomd.xml")
        assert f"VALIDSIG {host.own} " in checked.stdout
        looked = host.system.run("blind-oracle-relay", "doctor")
        assert looked.returncode == 0, looked.stdout
        assert "WARNING control: FALLBACK ACTIVE, mode forced: a drill" in looked.stdout
        assert f"signed and verified, by {host.own}" in looked.stdout
