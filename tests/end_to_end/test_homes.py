"""gpg finds the relay from every home that `setup` made, whatever happens to the home and to the oracle's keys."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from agentproxy.admin.dev.processes import find
from relay.homes import load_homes
from tests.admin.shell import blind_oracle
from tests.end_to_end.offline import Offline
from tests.end_to_end.place import SECONDS, Done, System, forget_home, gpg_in, until

BUILDER = 12_345  # somebody whom this host does not know
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root has other users")


@pytest.fixture
def homes() -> Iterator[Path]:
    """Where homes may be made; their names are short, since sockets lie there."""
    with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        try:
            yield Path(name)
        finally:
            for home in Path(name).iterdir():
                if home.is_dir():
                    forget_home(home)


@pytest.fixture(autouse=True)
def nothing_kept(system: System) -> Iterator[None]:
    yield
    (system.directory / "relay" / "homes.yaml").unlink(missing_ok=True)


def relay(system: System, *words: str | Path) -> Done:
    return system.run("blind-oracle-relay", *words)


def set_up(system: System, *words: str | Path) -> None:
    done = relay(system, "setup", *words)
    assert done.returncode == 0, done.stderr


def signs(home: Path, name: str = "modern") -> Done:
    return gpg_in(home, "--local-user", f"{name}@example.org", "--armor", "--detach-sign", text="some text")


def test_one_command_makes_several_homes_and_each_signs(system: System, homes: Path) -> None:
    set_up(system, "--home", homes / "one", "--home", homes / "two")
    for name in ("one", "two"):
        done = signs(homes / name)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_name_that_no_file_can_have_is_told_in_one_line(system: System, homes: Path) -> None:
    name = homes / ("a" * 256)
    done = relay(system, "setup", "--home", name)
    assert (done.returncode, done.stderr) == (
        1,
        f"blind-oracle-relay: error: {name}: cannot be looked at: File name too long\n",
    )
    done = relay(system, "setup", "--home", homes / "home", "--socket", name)
    assert "Traceback" not in done.stderr
    assert f"warning: {name}: is not there" in done.stderr


@ROOT_ONLY
def test_a_home_where_its_maker_may_not_look_is_told_in_one_line(homes: Path) -> None:
    (homes / "closed").mkdir(mode=0o700)
    look = f"from relay.owner import owner_of; from pathlib import Path; owner_of(Path('{homes}/closed/a'))"
    done = subprocess.run(
        [sys.executable, "-c", look], user=BUILDER, group=BUILDER, extra_groups=[], cwd=Path(__file__).parents[2],
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.stderr.splitlines()[-1].endswith("closed/a: cannot be looked at: Permission denied")


def test_a_home_with_secret_keys_is_left_alone(system: System, homes: Path) -> None:
    home = homes / "mine"
    home.mkdir(mode=0o700)
    made = gpg_in(home, "--pinentry-mode", "loopback", "--passphrase", "", "--quick-gen-key", "me", "ed25519")
    assert made.returncode == 0, made.stderr
    done = relay(system, "setup", "--home", home)
    assert done.returncode == 1
    assert "holds secret keys" in done.stderr
    assert "--home" in done.stderr
    assert not (home / "gpg-agent.conf").exists()
    assert gpg_in(home, "--armor", "--detach-sign", text="x").returncode == 0


def agent_socket(home: Path) -> Path:
    words = ["gpgconf", "--homedir", str(home), "--list-dirs", "agent-socket"]
    return Path(subprocess.run(words, capture_output=True, text=True, check=True, timeout=SECONDS).stdout.strip())


def test_gpg_finds_the_relay_with_and_without_a_login_session(system: System, homes: Path) -> None:
    home = homes / "home"
    set_up(system, "--home", home)
    places = {agent_socket(home), home / "S.gpg-agent"}
    assert {place.readlink() for place in places} == {system.socket}


def test_ten_first_signatures_at_once_after_a_reboot_find_the_relay(system: System, homes: Path) -> None:
    home = homes / "home"
    set_up(system, "--home", home)
    for place in {agent_socket(home), home / "S.gpg-agent"}:
        place.unlink()
    with ThreadPoolExecutor(10) as pool:
        done = list(pool.map(lambda _: signs(home), range(10)))
    assert [(one.returncode, one.stderr) for one in done] == [(0, "")] * 10
    assert agent_socket(home).readlink() == system.socket
    assert not list(home.glob("S.gpg-agent.[0-9]*"))


def test_an_agent_that_took_the_relays_place_is_sent_away(system: System, homes: Path) -> None:
    home = homes / "home"
    set_up(system, "--home", home)
    # What an older home, or somebody with a heavy hand, leads to.
    (home / "gpg-agent.conf").unlink()
    place = agent_socket(home)
    place.unlink()
    start = ("gpg-agent", "--homedir", str(home), "--daemon")
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=SECONDS)
    assert "No secret key" in signs(home).stderr

    done = relay(system, "keyrings")
    assert (done.returncode, done.stdout) == (0, f"{home}: in step\n"), done.stderr
    assert signs(home).returncode == 0
    until(lambda: not list(find("gpg-agent", at=home)), "the agent is gone")
    again = subprocess.run(start, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=SECONDS)
    assert again.returncode != 0
    assert signs(home).returncode == 0


def test_the_socket_of_an_agent_that_was_killed_is_replaced_at_once(system: System, homes: Path) -> None:
    home = homes / "home"
    home.mkdir(mode=0o700)
    place = agent_socket(home)
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(place))  # closed without being removed, as by kill -9
    set_up(system, "--home", home)
    assert place.readlink() == system.socket
    assert signs(home).returncode == 0


def other_user(*words: str | Path, home: Path) -> Done:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home.parent), "GNUPGHOME": str(home), "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        [str(word) for word in words],
        env=environment,
        cwd="/",
        input="some text",
        user=BUILDER,
        group=BUILDER,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.fixture(name="public_socket")
def socket_for_everybody(system: System, homes: Path) -> Iterator[Path]:
    config = system.directory / "relay" / "relay.yaml"
    before = config.read_text()
    socket = homes / "S.public"
    config.write_text(
        before.replace("sockets:\n", f'sockets:\n  - path: {socket}\n    name: public\n    mode: "0666"\n')
    )
    system.stop("relay")
    system.start("relay")
    yield socket
    config.write_text(before)
    system.stop("relay")
    system.start("relay")


@ROOT_ONLY
def test_a_shared_home_of_root_serves_every_user_and_is_written_by_none(
    system: System, homes: Path, public_socket: Path
) -> None:
    home = homes / "shared"
    set_up(system, "--home", home, "--shared", "--socket", public_socket)
    before = {file: file.lstat().st_mtime_ns for file in home.iterdir()}
    sign = ("gpg", "--batch", "--local-user", "modern@example.org", "--armor", "--output", "-", "--detach-sign")
    done = other_user(*sign, home=home)
    # It says so before it reads gpg.conf; only on its command line it can be told to be quiet.
    assert (done.returncode, done.stderr) == (0, f"gpg: WARNING: unsafe ownership on homedir '{home}'\n")
    assert other_user(*sign, "--no-permission-warning", home=home).stderr == ""
    tried = other_user("gpg-connect-agent", "KILLAGENT", "/bye", home=home)
    assert "Forbidden" in tried.stdout
    assert {file: file.lstat().st_mtime_ns for file in home.iterdir()} == before
    assert other_user(*sign, home=home).returncode == 0


@ROOT_ONLY
def test_root_works_in_a_users_home_as_that_user(system: System, homes: Path, public_socket: Path) -> None:
    home = homes / "builder"
    home.mkdir(mode=0o700)
    os.chown(home, BUILDER, BUILDER)
    set_up(system, "--home", home, "--socket", public_socket)
    assert {file.lstat().st_uid for file in home.rglob("*")} == {BUILDER}
    sign = ("gpg", "--batch", "--local-user", "modern@example.org", "--armor", "--output", "-", "--detach-sign")
    assert other_user(*sign, home=home).returncode == 0

    # The user's trap: what root writes here would be written there.
    victim = homes / "victim"
    victim.write_text("root's")
    victim.chmod(0o600)
    (home / "pubring.kbx").unlink()
    (home / "pubring.kbx").symlink_to(victim)
    done = relay(system, "keyrings")
    assert done.returncode == 1
    assert str(home) in done.stderr
    assert victim.read_text() == "root's"


def works_in(home: Path) -> list[str]:
    """The pids of whatever has `home` among its arguments."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if os.fsencode(home) in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(entry.name)
    return found


@ROOT_ONLY
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_setup_of_roots_that_is_ended_leaves_nobody_at_work_in_the_home(
    system: System, homes: Path, public_socket: Path, number: signal.Signals, status: int
) -> None:
    home = homes / "builder"
    home.mkdir(mode=0o700)
    os.mkfifo(home / "more.kbx")  # gpg waits for its other end
    (home / "gpg.conf").write_text("no-default-keyring\nkeyring more.kbx\n")
    for path in (home, *home.iterdir()):
        os.chown(path, BUILDER, BUILDER)
    program = [sys.executable, "-m", "relay.cli", "setup", "--home", home, "--socket", public_socket]
    with subprocess.Popen(program, env=system.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as setup:
        gpg_at_work = partial(works_in, home)
        until(lambda: len(gpg_at_work()) > 2, "besides setup and its child a program of gpg's is at work")
        setup.send_signal(number)
        _, said = setup.communicate(timeout=SECONDS)
    assert (setup.returncode, said.strip()) == (status, b"")
    until(lambda: not gpg_at_work(), "gpg has ended")
    assert not [file.name for file in home.iterdir() if file.name.startswith(".")]


@ROOT_ONLY
def test_root_takes_no_list_of_homes_from_others(system: System, homes: Path) -> None:
    set_up(system, "--home", homes / "home")
    file = system.directory / "relay" / "homes.yaml"
    file.chmod(0o666)
    done = relay(system, "keyrings")
    assert done.returncode == 1
    assert "others can write it" in done.stderr


@ROOT_ONLY
def test_root_works_in_no_place_that_others_can_replace(system: System, homes: Path) -> None:
    (homes / "open").mkdir()
    (homes / "open").chmod(0o777)
    done = relay(system, "setup", "--home", homes / "open" / "home" / "deep")
    assert done.returncode == 1
    assert "others can write" in done.stderr


def test_a_home_that_is_gone_is_named_and_stops_no_other(system: System, homes: Path) -> None:
    set_up(system, "--home", homes / "first", "--home", homes / "second")
    shutil.rmtree(homes / "first")
    (homes / "second" / "gpg.conf").unlink()
    done = relay(system, "keyrings")
    assert done.returncode == 1
    assert f"{homes / 'first'}: is gone" in done.stderr
    assert done.stdout == f"{homes / 'second'}: in step\n"
    assert (homes / "second" / "gpg.conf").exists()


def test_without_a_home_keyrings_says_how_to_make_one(system: System) -> None:
    done = relay(system, "keyrings")
    assert done.returncode == 1
    assert "names no home" in done.stderr
    assert "blind-oracle-relay setup --home DIR" in done.stderr


def import_key(system: System, file: Path, name: str, *words: str) -> None:
    environment = {"BLIND_ORACLE_CONFIG": str(system.directory / "oracle.yaml")}
    result = blind_oracle("key", "import", file, "--name", name, *words, environment=environment)
    assert result.status == 0, result.errors


def subkeys(home: Path, name: str) -> dict[str, str]:
    """Fingerprint and end of each subkey in a home."""
    rows = gpg_in(home, "--with-colons", "--with-subkey-fingerprint", "--list-keys", f"{name}@example.org").stdout
    found, end = {}, ""
    for row in (line.split(":") for line in rows.splitlines()):
        if row[0] == "sub":
            end = row[6]
        elif row[0] == "fpr" and end:
            found[row[9]] = end
    return found


def test_a_new_subkey_and_a_later_end_arrive_on_the_runner_and_the_new_one_signs(
    system: System, offline: Offline, homes: Path, tmp_path: Path
) -> None:
    home = homes / "home"
    set_up(system, "--home", home)
    keys = system.directory / "relay" / "state" / "keys.json"
    (old, end), before = next(iter(subkeys(home, "legacy").items())), keys.read_bytes()

    offline.gpg("--quick-set-expire", offline.primaries["legacy"], "5y", old)
    offline.gpg("--quick-add-key", offline.primaries["legacy"], "rsa2048", "sign", "2y")
    new = offline.column("legacy@example.org", "fpr")[-1]
    for name, fingerprint, words in (("legacy", old, ()), ("legacy-2", new, ("--policy-add",))):
        export = tmp_path / name
        export.write_bytes(offline.gpg("--export-secret-subkeys", f"{fingerprint}!"))
        import_key(system, export, name, *words)
    policy = system.directory / "policy.yaml"
    policy.write_text(policy.read_text().replace("keys: [", "keys: [legacy-2, "))
    system.reload_policy()
    until(lambda: keys.read_bytes() != before, "the relay's key list changes, which starts `keyrings`")

    done = relay(system, "keyrings")
    assert done.returncode == 0, done.stderr
    assert set(subkeys(home, "legacy")) == {old, new}
    assert int(subkeys(home, "legacy")[old]) > int(end)
    signed = signs(home, "legacy")
    assert signed.returncode == 0, signed.stderr
    assert system.is_good(signed.stdout, new) or new[-16:] in gpg_in(home, "--list-packets", text=signed.stdout).stdout


def test_options_in_another_encoding_stay_as_they_are(system: System, homes: Path) -> None:
    (homes / "old").mkdir(mode=0o700)
    (homes / "old" / "gpg.conf").write_bytes(b"# caf\xe9\nno-greeting\n")
    set_up(system, "--home", homes / "old")
    assert (homes / "old" / "gpg.conf").read_bytes().startswith(b"# caf\xe9\nno-greeting\n")
    assert signs(homes / "old").returncode == 0


@pytest.mark.parametrize("name", ["gpg.conf", "pubring.kbx", "trustdb.gpg"])
def test_a_pipe_in_place_of_what_gpg_reads_is_refused_at_once(system: System, homes: Path, name: str) -> None:
    (homes / "trap").mkdir(mode=0o700)
    os.mkfifo(homes / "trap" / name)
    done = relay(system, "setup", "--home", homes / "trap")
    assert done.returncode == 1
    assert f"{name}: is no regular file" in done.stderr


def test_a_users_pipe_holds_up_no_other_home_that_root_keeps_in_step(system: System, homes: Path) -> None:
    set_up(system, "--home", homes / "trap", "--home", homes / "other")
    (homes / "trap" / "pubring.kbx").unlink()
    os.mkfifo(homes / "trap" / "pubring.kbx")
    done = relay(system, "keyrings")
    assert f"{homes / 'trap'}: {homes / 'trap' / 'pubring.kbx'}: is no regular file" in done.stderr
    assert f"{homes / 'other'}: in step" in done.stdout


@pytest.mark.parametrize("name", ["gpg.conf", "gpg-agent.conf"])
def test_a_directory_in_place_of_the_options_is_refused_by_its_name(system: System, homes: Path, name: str) -> None:
    (homes / "trap" / name).mkdir(mode=0o700, parents=True)
    done = relay(system, "setup", "--home", homes / "trap")
    assert done.returncode == 1
    assert f"{homes / 'trap' / name}: is no regular file" in done.stderr


def homes_kept(system: System) -> set[Path]:
    return {one.path for one in load_homes(system.directory / "relay" / "homes.yaml").homes}


def test_a_home_is_kept_in_step_also_when_the_output_took_no_words_of_it(system: System, homes: Path) -> None:
    script = f"blind-oracle-relay setup --home {homes}/home > /dev/full"
    done = system.run("sh", "-c", script)
    assert (done.returncode, done.stderr) == (
        1,
        "blind-oracle-relay: error: standard output: No space left on device\n",
    )
    assert homes_kept(system) == {homes / "home"}


def test_of_homes_that_are_made_at_once_all_are_kept_in_step(system: System, homes: Path) -> None:
    places = [homes / f"home{number}" for number in range(6)]
    assert system.environment  # it is found out in the main thread only
    with ThreadPoolExecutor(len(places)) as pool:
        list(pool.map(lambda place: set_up(system, "--home", place), places))
    assert homes_kept(system) == set(places)


def test_a_home_with_any_characters_in_its_name_is_kept_in_step(system: System, homes: Path) -> None:
    home = homes / "\U0001f600 \u00f6"
    set_up(system, "--home", home)
    assert signs(home).returncode == 0
    done = relay(system, "keyrings")
    assert (done.returncode, done.stdout) == (0, f"{home}: in step\n"), done.stderr

    refused = relay(system, "setup", "--home", f"{homes}/\udcff")
    assert refused.returncode == 1
    assert r"/\xff: is no UTF-8" in refused.stderr
    assert homes_kept(system) == {home} == set(homes.iterdir())


def test_a_home_that_gpgs_options_cannot_name_is_not_made(system: System, homes: Path) -> None:
    done = relay(system, "setup", "--home", homes / "a\nb")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot hold a newline" in done.stderr
    assert list(homes.iterdir()) == []
    assert homes_kept(system) == set()


def without_a_session(directory: Path) -> Path:
    """A PATH entry with which gpg's agent is looked for in the home, as where there is no /run/user."""
    stand_in = directory / "gpgconf"
    stand_in.write_text('#!/bin/sh\necho "${2:-}/S.gpg-agent"\n')
    stand_in.chmod(0o755)
    return directory


@pytest.mark.parametrize("how", [(), ("--shared",)], ids=["own", "shared"])
def test_a_home_whose_agents_socket_gpg_cannot_name_is_not_made(
    system: System, homes: Path, tmp_path: Path, how: tuple[str, ...]
) -> None:
    """A shared one also where who makes it would find the relay: in a session gpg looks below /run/user."""
    path = system.environment["PATH"] if how else f"{without_a_session(tmp_path)}:{system.environment['PATH']}"
    setup = ("env", f"PATH={path}", "blind-oracle-relay", "setup", *how, "--home")
    longest = homes / ("x" * (106 - len(f"{homes}//S.gpg-agent")))
    done = system.run(*setup, f"{longest}x")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{longest}x/S.gpg-agent: gpg cannot connect to a name of more than 106 bytes" in done.stderr
    assert "hint: choose a shorter path" in done.stderr
    assert list(homes.iterdir()) == []
    assert homes_kept(system) == set()
    assert system.run(*setup, longest).returncode == 0


@pytest.mark.parametrize("name", ["a b", "100%{_host}", "back\\slash", "$HOME", "it's\""])
def test_rpm_reads_the_home_that_setup_names_in_its_macros(
    system: System, homes: Path, tmp_path: Path, name: str
) -> None:
    done = relay(system, "setup", "--home", homes / name)
    macros = tmp_path / "macros"
    macros.write_text("".join(f"{line.strip()}\n" for line in done.stdout.splitlines() if line.startswith("  %")))
    read = subprocess.run(
        ["rpm", "--macros", f"/usr/lib/rpm/macros:{macros}", "--eval", "%_gpg_path"],
        capture_output=True, text=True, timeout=SECONDS, check=True,
    )  # fmt: skip
    assert read.stdout == f"{homes / name}\n"


def test_homes_are_kept_in_step_also_where_sq_is_too_old_for_a_store(system: System, homes: Path) -> None:
    (homes / "bin").mkdir()
    sq = homes / "bin" / "sq"  # as Debian 12 has it
    sq.write_text("#!/bin/sh\necho \"error: Found argument '--cert-store' which wasn't expected\" >&2; exit 2\n")
    sq.chmod(0o755)
    done = subprocess.run(
        ["blind-oracle-relay", "setup", "--home", homes / "home", "--cert-store", homes / "store"],
        env={**system.environment, "PATH": f"{sq.parent}:{system.environment['PATH']}"},
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "sq cert import failed: error: Found argument '--cert-store'" in done.stderr
    assert "hint: this sq is too old" in done.stderr
    assert "it must be sq 1.0 or newer" in done.stderr
    assert homes_kept(system) == {homes / "home"}
    assert load_homes(system.directory / "relay" / "homes.yaml").cert_stores == ()


def test_a_socket_that_is_none_of_the_relays_is_warned_of_with_those_that_are(system: System, homes: Path) -> None:
    strange = homes / "S.el10"
    done = relay(system, "setup", "--home", homes / "home", "--socket", strange)
    assert done.returncode == 0  # an image may be made for a place where the socket is to be mounted
    assert f"warning: {strange}: is not there, and no socket of this relay" in done.stderr
    assert f"relay.yaml names {system.socket}\n" in done.stderr

    # A link or a mount leads to the same socket.
    strange.symlink_to(system.socket)
    done = relay(system, "setup", "--home", homes / "home", "--socket", strange)
    assert (done.returncode, done.stderr) == (0, "")
    assert signs(homes / "home").returncode == 0
