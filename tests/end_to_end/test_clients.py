"""Whoever signs with gpg, signs here: git, debsign, rpmsign, and gpg itself in its many ways."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.end_to_end.offline import Offline
from tests.end_to_end.packages import build_packages, is_signed, rpmsign, write_source_package
from tests.end_to_end.place import System

AWKWARD = ["with blank", "it's", 'a "quote"', "$(touch intruder)", "ünïcode", "-dash", "percent%0A%s", "new\nline"]


def git(system: System, directory: Path, *words: str) -> str:
    identity = ("-c", "user.name=modern", "-c", "user.email=modern@example.org", "-c", "gpg.program=gpg")
    done = system.run("git", "-C", directory, *identity, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_git_signs_commits_and_tags(system: System, offline: Offline, tmp_path: Path) -> None:
    git(system, tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("content")
    git(system, tmp_path, "add", "file")
    git(system, tmp_path, "commit", "--quiet", "-S", "--message", "signed")
    git(system, tmp_path, "tag", "-s", "v1", "--message", "signed, too")
    for command in ("verify-commit", "verify-tag"):
        shown = git(system, tmp_path, command, "--raw", "HEAD" if command == "verify-commit" else "v1")
        assert f"VALIDSIG {offline.fingerprints['modern']} " in shown


def test_debsign_signs_a_source_package_and_its_changes(system: System, offline: Offline, tmp_path: Path) -> None:
    source, changes = write_source_package(tmp_path)
    done = system.run("debsign", "--no-conf", "-klegacy@example.org", changes)
    assert done.returncode == 0, done.stderr
    for file in (source, changes):
        checked = system.gpg("--status-fd", "1", "--verify", file)
        assert f"VALIDSIG {offline.fingerprints['legacy']} " in checked.stdout


def test_one_rpmsign_signs_twenty_packages(system: System, offline: Offline, tmp_path: Path) -> None:
    packages = build_packages(tmp_path, [f"hello-{number}" for number in range(20)])
    before = len(system.signed())
    done = rpmsign(system, "modern", *packages)
    assert done.returncode == 0, done.stderr
    assert all(is_signed(system, offline, "modern", package, tmp_path / "rpmdb") for package in packages)
    claimed = [record["asserted"] for record in system.signed()[before:]]
    assert len(claimed) == 20
    assert len({str(claim) for claim in claimed}) > 1


def test_forty_gpg_at_once_all_get_their_signatures(system: System, offline: Offline) -> None:
    before = len(system.signed())
    assert system.environment  # found here, since the threads below cannot
    with ThreadPoolExecutor(40) as pool:
        done = list(pool.map(lambda _: system.sign(), range(40)))
    assert [one.returncode for one in done] == [0] * 40, [one.stderr for one in done]
    assert len(system.signed()) == before + 40
    assert system.is_good(done[-1].stdout, offline.fingerprints["modern"])


@pytest.mark.parametrize("name", AWKWARD)
def test_no_name_of_a_file_is_too_strange(system: System, offline: Offline, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text("some text")
    done = system.gpg("--local-user", "modern@example.org", "--detach-sign", "--", file)
    assert done.returncode == 0, done.stderr
    checked = system.gpg("--status-fd", "1", "--verify", "--", f"{file}.sig", file)
    assert f"VALIDSIG {offline.fingerprints['modern']} " in checked.stdout
    assert not (system.directory / "intruder").exists()
    system.assert_log_is_whole()
    assert system.last()[0]["outcome"] == "signed"
    assert all(line.isprintable() for line in system.log("relay").splitlines())


@pytest.mark.parametrize("way", ["--clearsign", "--sign"])
def test_other_kinds_of_signatures(system: System, offline: Offline, way: str) -> None:
    done = system.gpg("--local-user", "modern@example.org", "--armor", way, text="some text\n- with a dash\n")
    assert done.returncode == 0, done.stderr
    checked = system.gpg("--status-fd", "2", "--decrypt", text=done.stdout)
    assert f"VALIDSIG {offline.fingerprints['modern']} " in checked.stderr
    assert checked.stdout == "some text\n- with a dash\n"


def test_two_keys_sign_one_text(system: System, offline: Offline) -> None:
    done = system.sign("modern", "--local-user", "legacy@example.org")
    assert done.returncode == 0, done.stderr
    for name in ("modern", "legacy"):
        assert system.is_good(done.stdout, offline.fingerprints[name])


def test_the_key_list_shows_secret_keys_elsewhere(system: System, offline: Offline) -> None:
    listed = system.gpg("--with-colons", "--list-secret-keys", "modern@example.org").stdout.splitlines()
    available = {row.split(":")[0]: row.split(":")[14] for row in listed if row.startswith(("sec:", "ssb:"))}
    assert available == {"sec": "#", "ssb": "+"}


def test_killing_the_agent_as_scripts_do_leaves_the_relay_alone(system: System, offline: Offline) -> None:
    relay = system.pid("relay")
    system.run("gpgconf", "--kill", "gpg-agent")
    system.run("gpgconf", "--reload", "gpg-agent")
    done = system.sign()
    assert done.returncode == 0, done.stderr
    assert system.pid("relay") == relay
