"""`blind-oracle-sign`: packages, files and repositories signed without gpg or rpm, as their users' tools see them."""

import contextlib
import fcntl
import json
import os
import pty
import select
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import relay.sealed
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.rpmfile import read_front
from relay.sealed.commandline import run_command
from tests.admin.shell import blind_oracle
from tests.end_to_end.offline import Offline
from tests.end_to_end.packages import build_packages, is_signed, rpmsign
from tests.end_to_end.place import SECONDS, Done, System, gpg_in, system_with, until
from tests.end_to_end.test_killed import signer_of

SIGN = "blind-oracle-sign"
AWKWARD = ["with blank", "it's", 'a "quote"', "$(touch intruder)", "`touch intruder`", "-dash", "a;b", "new\nline"]


@pytest.fixture(name="made", scope="module")
def system_with_every_kind_of_key(offline: Offline) -> Iterator[System]:
    """Beside modern and legacy (RSA): an Ed25519 and a P-384 subkey, and a whole primary key that is seal_only."""
    offline.make("edwards", "ed25519")
    offline.make("nist", "nistp384")
    if "old" not in offline.exports:
        _make_a_primary_key_that_signs(offline)
    names = ("modern", "legacy", "edwards", "nist")
    with system_with({name: offline.exports[name] for name in names}) as system:
        _serve_the_primary_key(system, offline)
        yield system


def _make_a_primary_key_that_signs(offline: Offline) -> None:
    offline.gpg("--quick-gen-key", "old <old@example.org>", "rsa2048", "default", "1y")
    fingerprint = offline.column("old@example.org", "fpr")[0]
    offline.primaries["old"] = offline.fingerprints["old"] = fingerprint
    exported = offline.home / "old.secret"
    exported.write_bytes(offline.gpg("--export-secret-keys", f"{fingerprint}!"))
    offline.exports["old"] = exported


def _serve_the_primary_key(system: System, offline: Offline) -> None:
    words = ("key", "import", offline.exports["old"], "--name", "old", "--seal-only", "--policy-add")
    done = system.run("blind-oracle", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    policy = system.directory / "policy.yaml"
    text = policy.read_text()
    assert "keys: [modern, legacy, edwards, nist]" in text
    policy.write_text(text.replace("legacy, edwards, nist]", "legacy, edwards, nist, old]"))
    system.stop()
    system.start()


def sign(system: System, *words: str | Path, seconds: float = SECONDS) -> Done:
    return system.run(SIGN, *words, seconds=seconds)


def runs(system: System) -> int:
    """How many have connected since the oracle's log began."""
    return system.log("oracle").count("software=blind-oracle-sign/")


def told(done: Done) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(name="package")
def one_package(tmp_path: Path) -> Path:
    return build_packages(tmp_path, ["hello"])[0]


@pytest.mark.parametrize("key", ["modern", "legacy", "edwards", "old"])
def test_rpm_accepts_a_package_signed_with_every_kind_of_key_that_it_knows(
    system: System, offline: Offline, package: Path, tmp_path: Path, key: str
) -> None:
    before = package.stat()
    done = sign(system, "rpm", "--key", key, "--json", package)
    assert done.returncode == 0, done.stderr
    assert is_signed(system, offline, key, package, tmp_path / "rpmdb")
    (result,) = told(done)
    record = system.signed()[-1]
    assert (record["operation"], record["key"], record["digest"]) == ("seal", key, result["digest"])
    assert (record["sequence"], record["request"]) == (result["record"], result["request"])
    claims = record["asserted"]["claims"]  # type: ignore[index]  # JSON
    assert (claims["package"], claims["file"]) == ("hello-0:1.0-1.noarch", str(package))
    after = package.stat()
    assert (after.st_mode, after.st_uid, after.st_size) == (before.st_mode, before.st_uid, before.st_size)
    system.assert_log_is_whole()


def test_gpg_accepts_the_header_of_a_package_signed_with_a_kind_that_this_rpm_does_not_know(
    system: System, offline: Offline, package: Path, tmp_path: Path
) -> None:
    assert sign(system, "rpm", "--key", "nist", package).returncode == 0
    with package.open("rb") as file:
        front = read_front(file)
    (tmp_path / "header").write_bytes(front.header)
    signature = front.signatures.find(267)
    assert signature is not None
    (tmp_path / "header.sig").write_bytes(signature.value)
    checked = system.gpg("--status-fd", "1", "--verify", tmp_path / "header.sig", tmp_path / "header")
    assert f"VALIDSIG {offline.fingerprints['nist']} " in checked.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="dnf installs as root")
@pytest.mark.parametrize("key", ["legacy", "edwards"])
def test_dnf_installs_from_a_repository_that_was_signed_without_gpg(
    system: System, offline: Offline, package: Path, tmp_path: Path, key: str
) -> None:
    repository = tmp_path / "repo"
    repository.mkdir()
    assert sign(system, "rpm", "--key", key, package).returncode == 0
    (repository / package.name).hardlink_to(package)
    assert system.run("createrepo_c", "--quiet", repository).returncode == 0
    done = sign(system, "repo", "--key", key, repository)
    assert done.returncode == 0, done.stderr
    (tmp_path / "key.asc").write_bytes(offline.public(key))
    assert dnf(system, tmp_path, "install", "hello").returncode == 0
    assert system.run("rpm", "--root", tmp_path / "root", "-q", "hello").stdout.strip() == "hello-1.0-1.noarch"
    # The control: what nobody signed is not installed.
    (package.parent / "other").mkdir()
    (unsigned,) = build_packages(package.parent / "other", ["unsigned"])
    (repository / unsigned.name).hardlink_to(unsigned)
    assert system.run("createrepo_c", "--quiet", repository).returncode == 0
    assert dnf(system, tmp_path, "install", "unsigned").returncode != 0  # the metadata has another signature
    assert sign(system, "repo", "--key", key, repository).returncode == 0
    done = dnf(system, tmp_path, "install", "unsigned")
    assert done.returncode != 0
    assert "is not signed" in done.stdout + done.stderr


def dnf(system: System, directory: Path, *words: str) -> Done:
    for name in ("repos.d", "cache", "log", "vars"):
        (directory / name).mkdir(exist_ok=True)
    (directory / "repos.d" / "test.repo").write_text(
        f"[test]\nname=test\nbaseurl=file://{directory}/repo\ngpgkey=file://{directory}/key.asc\n"
        "gpgcheck=1\nrepo_gpgcheck=1\nenabled=1\nmetadata_expire=0\n"
    )
    places = {"reposdir": "repos.d", "cachedir": "cache", "logdir": "log", "varsdir": "vars"}
    settings = [f"--setopt={name}={directory / value}" for name, value in places.items()]
    settings += ["--setopt=module_platform_id=platform:el9", "--releasever=9", "--noplugins"]
    # What dnf has fetched within this second counts as fresh, whatever metadata_expire says.
    settings += ["--refresh"]
    try:
        return system.run("dnf", "--assumeyes", "--quiet", f"--installroot={directory}/root", *settings, *words)
    finally:
        for home in (directory / "cache").glob("*/pubring"):  # with an agent, which would outlive the test
            system.run("gpgconf", "--homedir", home, "--kill", "gpg-agent")


@pytest.mark.parametrize("name", AWKWARD)
def test_no_name_of_a_file_is_too_strange(
    system: System, offline: Offline, package: Path, tmp_path: Path, name: str
) -> None:
    directory = tmp_path / f"in {name}"
    directory.mkdir()
    moved = package.rename(directory / f"{name}.rpm")
    done = sign(system, "rpm", "--json", "--key", "modern", "--", moved)
    assert done.returncode == 0, done.stderr
    assert told(done)[0]["file"] == str(moved)
    assert is_signed(system, offline, "modern", moved, tmp_path / "rpmdb")
    done = sign(system, "detached", "--key", "modern", "--", moved)
    assert done.returncode == 0, done.stderr
    checked = system.gpg("--status-fd", "1", "--verify", "--", f"{moved}.asc", moved)
    assert f"VALIDSIG {offline.fingerprints['modern']} " in checked.stdout
    assert sorted(entry.name for entry in directory.iterdir()) == sorted([moved.name, f"{moved.name}.asc"])
    assert not list(tmp_path.rglob("intruder"))
    assert not (system.directory / "intruder").exists()
    system.assert_log_is_whole()


@pytest.mark.parametrize("words", [("--binary",), ("--digest", "sha512"), ("--output", "elsewhere")])
def test_a_detached_signature_verifies(
    system: System, offline: Offline, tmp_path: Path, words: tuple[str, ...]
) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(3_000_000))
    words = tuple(str(tmp_path / word) if word == "elsewhere" else word for word in words)
    done = sign(system, "detached", "--key", "legacy", "--json", *words, file)
    assert done.returncode == 0, done.stderr
    checked = system.gpg("--status-fd", "1", "--verify", str(told(done)[0]["signature"]), file)
    (valid,) = [line.split() for line in checked.stdout.splitlines() if " VALIDSIG " in line]
    assert (valid[2], valid[10]) == (offline.fingerprints["legacy"], "00")
    assert valid[9] == ("10" if "sha512" in words else "8")


@pytest.mark.parametrize("key", ["modern", "edwards", "nist", "old"])
def test_sequoia_verifies_a_detached_signature(system: System, offline: Offline, tmp_path: Path, key: str) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "key.asc").write_bytes(offline.public(key))
    assert sign(system, "detached", "--key", key, tmp_path / "file").returncode == 0
    words = ("sq", "verify", "--signer-cert", tmp_path / "key.asc", "--detached", tmp_path / "file.asc")
    assert system.run(*words, tmp_path / "file").returncode == 0
    (tmp_path / "file").write_text("another text")
    assert system.run(*words, tmp_path / "file").returncode != 0


def test_the_log_tells_who_signed_a_package_and_a_file(system: System, package: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    assert sign(system, "rpm", "--key", "modern", package).returncode == 0
    assert sign(system, "detached", "--key", "modern", tmp_path / "file").returncode == 0
    done = system.run("blind-oracle", "audit", "who-signed", package, tmp_path / "file")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("this oracle made it") == 2
    assert done.stdout.count("with key modern, for dev") == 2


def test_many_packages_are_signed_over_one_connection(system: System, offline: Offline, tmp_path: Path) -> None:
    packages = build_packages(tmp_path, [f"hello-{number}" for number in range(30)])
    (tmp_path / "broken.rpm").write_bytes(packages[0].read_bytes()[:-1])
    came = runs(system)
    odd = (tmp_path / "broken.rpm", tmp_path / "none.rpm", packages[0])  # the last one stands twice
    done = sign(system, "rpm", "--json", "--key", "modern", *packages, *odd)
    assert done.returncode == 1
    outcomes = {str(result["file"]): (result["outcome"], result.get("reason")) for result in told(done)}
    assert outcomes.pop(str(tmp_path / "none.rpm")) == ("failed", "No such file or directory")
    outcome, reason = outcomes.pop(str(tmp_path / "broken.rpm"))
    assert outcome == "failed"
    assert "payload" in str(reason)
    assert set(outcomes) == {str(package) for package in packages}
    assert set(outcomes.values()) == {("signed", None)}
    assert is_signed(system, offline, "modern", packages[17], tmp_path / "rpmdb")
    until(lambda: runs(system) > came, "the oracle has told who came")
    assert runs(system) == came + 1


def test_a_terminal_gets_a_bar_and_what_went_wrong_beside_it(system: System, tmp_path: Path) -> None:
    packages = build_packages(tmp_path, ["one", "two"])
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", 0) as screen:
        words = [SIGN, "rpm", "--key", "modern", *map(str, packages), str(tmp_path / "none.rpm")]
        process = subprocess.Popen(words, env=system.environment, stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # so Linux says that nobody has the other end any more
            while chunk := screen.read(4096):
                shown += chunk
        assert process.wait(SECONDS) == 1
    assert b"signing" in shown
    assert b"3/3" in shown
    assert b"none.rpm: No such file or directory" in shown


def test_existing_signatures_are_kept_replaced_or_refused(
    system: System, offline: Offline, package: Path, tmp_path: Path
) -> None:
    assert rpmsign(system, "legacy", package).returncode == 0
    before, count = package.read_bytes(), len(system.signed())
    done = sign(system, "rpm", "--key", "modern", "--existing", "keep", package)
    assert (done.returncode, done.stdout) == (0, "1 kept\n")
    done = sign(system, "rpm", "--key", "modern", "--existing", "refuse", package)
    assert done.returncode == 1
    assert "has a signature" in done.stderr
    assert (package.read_bytes(), len(system.signed())) == (before, count)
    assert sign(system, "rpm", "--key", "modern", package).returncode == 0
    assert is_signed(system, offline, "modern", package, tmp_path / "rpmdb")


def test_which_key_must_be_clear_and_the_hint_says_how(system: System, package: Path) -> None:
    before = package.read_bytes()
    for words, expected in [
        ((), "several keys would do"),
        (("--key", "nobody"), "no key fits --key nobody"),
        (("--key", "nist", "--digest", "sha256"), "key nist takes sha512"),
        (("--key-type", "a b"), "--key-type"),
    ]:
        done = sign(system, "rpm", *words, package)
        assert done.returncode == 1
        assert expected in done.stderr
        assert "Traceback" not in done.stderr
    fingerprint = next(iter(told(sign(system, "rpm", "--json", "--key", "modern", package))))["fingerprint"]
    done = sign(system, "rpm", "--json", "--key", str(fingerprint).lower(), package)
    assert told(done)[0]["fingerprint"] == fingerprint
    assert package.read_bytes() != before


def test_a_whole_primary_key_seals_documents_and_lends_no_certification(
    system: System, offline: Offline, package: Path, tmp_path: Path
) -> None:
    """What gpg asks for a certification is refused, whoever asks; what is sealed is a document's, and of now."""
    assert sign(system, "rpm", "--key", "old", package).returncode == 0
    assert is_signed(system, offline, "old", package, tmp_path / "rpmdb")
    count = len(system.signed())
    with system.another_home() as home:
        user = ("--quick-add-uid", offline.primaries["old"], "intruder <intruder@example.org>")
        assert gpg_in(home, *user).returncode != 0
        (tmp_path / "file").write_text("text")
        backdated = ("--faked-system-time", "20250101T000000!", "--ignore-time-conflict", "-u", "old@example.org")
        assert gpg_in(home, *backdated, "--detach-sign", tmp_path / "file").returncode != 0
    assert len(system.signed()) == count
    refused = [record for record in system.records() if record["outcome"] == "refused" and record["key"] == "old"]
    assert {record["operation"] for record in refused} == {"sign"}


@contextmanager
def stopped_signer(system: System) -> Iterator[None]:
    """Everything waits for the signer, which is there and does nothing."""
    process = signer_of(system)
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


@contextmanager
def signing(system: System, *words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """blind-oracle-sign in the background, as soon as the oracle has its request."""
    came = runs(system)
    process = subprocess.Popen(
        [SIGN, *map(str, words)], env=system.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        until(lambda: runs(system) > came, "it is connected")
        yield process
    finally:
        process.kill()
        process.communicate()


def has_open(process: subprocess.Popen[str], file: Path) -> bool:
    links = Path(f"/proc/{process.pid}/fd").iterdir()
    return any(link.exists() and link.samefile(file) for link in links)


def test_a_package_that_changes_while_it_is_signed_is_left_alone(system: System, package: Path) -> None:
    with stopped_signer(system), signing(system, "rpm", "--key", "modern", package) as process:
        until(lambda: has_open(process, package), "it has read the package")
        with package.open("ab") as file:
            file.write(b"more")
        changed = package.read_bytes()
        signer = signer_of(system)
        assert signer is not None
        os.kill(signer.pid, signal.SIGCONT)
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "changed while it was" in errors
    assert package.read_bytes() == changed
    assert [entry.name for entry in package.parent.iterdir()] == [package.name]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_leaves_every_package_as_it_was(system: System, package: Path, how: int) -> None:
    before = package.read_bytes()
    with stopped_signer(system), signing(system, "rpm", "--key", "modern", package) as process:
        until(lambda: has_open(process, package), "it has read the package")
        process.send_signal(how)
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    assert "Traceback" not in errors
    assert package.read_bytes() == before
    assert [entry.name for entry in package.parent.iterdir()] == [package.name]
    assert sign(system, "rpm", "--key", "modern", package).returncode == 0


def test_without_an_oracle_it_says_so_within_the_deadline_and_changes_nothing(system: System, package: Path) -> None:
    before = package.read_bytes()
    system.stop("oracle")
    done = sign(system, "rpm", "--key", "modern", package)
    assert done.returncode == 1
    assert "no oracle in reach" in done.stderr
    assert package.read_bytes() == before


def test_a_runner_that_was_revoked_is_told_at_once(system: System, package: Path) -> None:
    assert blind_oracle("runner", "disable", "dev", "--config", system.directory / "oracle.yaml").status == 0
    try:
        until(lambda: not system.is_connected(), "the oracle knows")
        done = sign(system, "rpm", "--key", "modern", package)
        assert done.returncode == 1
        assert "has this runner disabled" in done.stderr
    finally:
        assert blind_oracle("runner", "enable", "dev", "--config", system.directory / "oracle.yaml").status == 0
        until(system.is_connected, "the runner is back")


def test_what_is_no_repository_is_named(system: System, tmp_path: Path) -> None:
    done = sign(system, "repo", "--key", "modern", tmp_path)
    assert done.returncode == 1
    assert "createrepo_c" in done.stderr
    (tmp_path / "repodata").mkdir()
    (tmp_path / "repodata" / "repomd.xml").write_text("something else")
    assert "no metadata of a repository" in sign(system, "repo", "--key", "modern", tmp_path).stderr


def test_what_is_no_repository_keeps_no_other_from_being_signed(system: System, tmp_path: Path) -> None:
    names = ("empty", "other", "good")
    files = {name: tmp_path / name / "repodata" / "repomd.xml" for name in names}
    for name, content in (("other", "something else"), ("good", "<repomd/>")):
        files[name].parent.mkdir(parents=True)
        files[name].write_text(content)
    done = sign(system, "repo", "--json", "--key", "modern", *(tmp_path / name for name in names))
    assert done.returncode == 1
    results = {str(result["file"]): result for result in told(done)}
    assert set(results) == {str(file) for file in files.values()}
    assert {name: results[str(file)]["outcome"] for name, file in files.items()} == {
        "empty": "failed", "other": "failed", "good": "signed"
    }  # fmt: skip
    assert "createrepo_c" in str(results[str(files["empty"])]["reason"])
    signature = files["good"].with_name("repomd.xml.asc")
    assert system.gpg("--verify", signature, files["good"]).returncode == 0
    assert not files["other"].with_name("repomd.xml.asc").exists()


def test_wrong_usage_is_told_with_status_2(system: System, tmp_path: Path) -> None:
    for words in ((), ("rpm",), ("rpm", "--existing", "maybe", "x"), ("detached", "-o", "x", "a", "b"), ("certify",)):
        done = sign(system, *words)
        assert done.returncode == 2, words
        assert "Traceback" not in done.stderr


def test_without_a_command_it_prints_its_help_and_calls_nothing_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("Usage: blind-oracle-sign ")
    assert "error" not in shown.err


def test_a_runner_without_rpm_rs_is_told_what_to_install(system: System, package: Path) -> None:
    program = "import sys; sys.modules['rpm_rs'] = None\nfrom relay.sealed.cli import main\nmain(['rpm', 'x.rpm'])"
    done = system.run(sys.executable, "-c", program)
    assert done.returncode == 1
    assert "pip install 'blind-oracle[client]'" in done.stderr


def test_a_part_that_is_only_missed_when_the_oracle_has_answered_is_told_in_one_line(
    system: System, package: Path, tmp_path: Path
) -> None:
    files = [package, *(tmp_path / f"{number}.rpm" for number in range(8))]
    for file in files[1:]:
        shutil.copy(package, file)
    program = (
        "import sys; sys.modules['cryptography.exceptions'] = None\nfrom relay.sealed.cli import main\n"
        f"main(['rpm', '--key', 'modern', *{[str(file) for file in files]!r}])"
    )
    done = system.run(sys.executable, "-c", program)
    assert done.returncode == 1
    assert done.stderr == (
        "blind-oracle-sign: error: cryptography.exceptions is not installed\n"
        "blind-oracle-sign: hint: pip install 'blind-oracle[client]'\n"
    )


def test_the_client_ends_without_taking_the_interpreter_apart(system: System) -> None:
    program = "import atexit\natexit.register(print, 'apart')\nfrom relay.sealed.cli import main\nmain(['--version'])"
    done = system.run(sys.executable, "-c", program)
    assert done.returncode == 0
    assert "blind-oracle-sign" in done.stdout
    assert "apart" not in done.stdout


def test_a_run_without_trouble_loads_no_event_loop_and_one_around_it_does(system: System, package: Path) -> None:
    program = (
        "import os, sys\nend = os._exit\n"
        "os._exit = lambda status: (print('trio' in sys.modules, flush=True), end(status))\n"
        "from relay.sealed.cli import main\nmain(sys.argv[1:])"
    )
    words = ("rpm", "--quiet", "--key", "modern", package)
    assert system.run(sys.executable, "-c", program, *words).stdout == "False\n"
    broken = program.replace("main(sys", "import relay.sealed.straight as s\ns.PATIENCE_SECONDS = 0.0\nmain(sys")
    assert system.run(sys.executable, "-c", broken, *words).stdout == "True\n"


def test_the_example_of_the_library_signs(system: System, package: Path) -> None:
    """As `help(relay.sealed)` has it, with the imports that it needs."""
    example = textwrap.dedent(str(relay.sealed.__doc__).split("\n\n")[1])
    example = example.replace("hello.rpm", str(package)).replace('key_type="modern"', 'name="modern"')
    program = "\n".join([*LIBRARY, example])
    done = system.run(sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
    assert "Outcome.SIGNED" in done.stdout


LIBRARY = (
    "from pathlib import Path",
    "from relay.config import config_path, load_config",
    "from relay.sealed.asker import open_asker",
    "from relay.sealed.batch import Batch",
    "from relay.sealed.fate import Way",
    "from relay.sealed.keychoice import KeyWanted, hash_algorithm",
)


def test_one_file_under_several_names_is_signed_under_each(system: System, offline: Offline, tmp_path: Path) -> None:
    """Hard links part, since each name gets a file of its own; a symbolic link still leads to its package."""
    (package,) = build_packages(tmp_path, ["hello"])
    names = [package, *(tmp_path / f"link-{number}.rpm" for number in range(4))]
    for name in names[1:]:
        name.hardlink_to(package)
    latest = tmp_path / "latest.rpm"
    latest.symlink_to(package)
    done = sign(system, "rpm", "--json", "--key", "modern", *names, latest)
    assert done.returncode == 0, done.stderr
    assert {(str(result["file"]), result["outcome"]) for result in told(done)} == {
        (str(name), "signed") for name in [*names, latest]
    }
    assert latest.is_symlink()
    for name in names:
        assert is_signed(system, offline, "modern", name, tmp_path / "rpmdb")


def test_a_signature_takes_the_place_of_no_document_and_no_device(system: System, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    (tmp_path / "link").symlink_to("/dev/null")
    for output, reason in ((file, "its own place"), (tmp_path / "link", "no regular file"), (tmp_path, "no regular")):
        done = sign(system, "detached", "--key", "modern", "--output", output, file)
        assert done.returncode == 1
        assert reason in done.stderr
    assert sign(system, "detached", "--key", "modern", "--output", "-", file).returncode == 2
    assert file.read_text() == "text"
    assert (tmp_path / "link").readlink() == Path("/dev/null")


@pytest.mark.parametrize("directory", [".", "/", ".."])
def test_a_directory_is_no_document_and_keeps_no_other_from_being_signed(
    system: System, tmp_path: Path, directory: str
) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    done = sign(system, "detached", "--key", "modern", file, directory)
    assert done.returncode == 1
    assert f"error: {directory}: Is a directory\n1 signed, 1 failed" in done.stderr
    assert file.with_name("file.asc").exists()


def test_only_its_owner_may_write_a_signature(system: System, tmp_path: Path) -> None:
    for mode, expected in ((0o666, 0o644), (0o640, 0o640), (0o400, 0o600)):
        file = tmp_path / f"{mode:o}"
        file.write_text("text")
        file.chmod(mode)
        assert sign(system, "detached", "--key", "modern", file).returncode == 0
        assert stat.S_IMODE(file.with_name(f"{mode:o}.asc").stat().st_mode) == expected


def test_a_signature_that_cannot_be_written_is_named(system: System, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    done = sign(system, "detached", "--key", "modern", "--output", tmp_path / "none" / "file.asc", file)
    assert done.returncode == 1
    assert "none/file.asc' cannot be written: No such file or directory" in done.stderr


def test_few_open_files_make_a_run_slower_and_not_wrong(system: System, package: Path, tmp_path: Path) -> None:
    packages = [tmp_path / f"{number}.rpm" for number in range(100)]
    for one in packages:
        shutil.copy(package, one)
    words = [SIGN, "rpm", "--key", "modern", "--jobs", "100", *packages]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 90; exec "$@"', "sh", *words],
        env=system.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "fewer at once than configured" in done.stderr
    assert "100 signed" in done.stdout


@pytest.mark.parametrize("options", [("--json",), ()])
def test_a_run_whose_results_nobody_can_be_told_says_so_in_one_line(
    system: System, package: Path, options: tuple[str, ...]
) -> None:
    words = (SIGN, "rpm", *options, "--key", "modern", package)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            words, env=system.environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "No space left" in done.stderr


def test_a_file_that_cannot_be_read_is_no_wrong_usage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is told as the others are, which are signed."""
    (tmp_path / "x.rpm").touch()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        run_command(["rpm", "--config", str(tmp_path / "none.yaml"), str(tmp_path / "x.rpm")])


# Of the fewer, all are done with, as many as a run goes ahead of its reader; only their lines are not with the reader.
@pytest.mark.parametrize("count", [600, 60])
def test_who_interrupts_a_run_does_not_wait_for_its_reader_nor_take_it_for_a_whole_one(
    system: System, tmp_path: Path, count: int
) -> None:
    missing = [str(tmp_path / f"{number:04d}{'x' * 200}.rpm") for number in range(count)]
    words = (SIGN, "rpm", "--json", "--key", "modern", *missing)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    process = subprocess.Popen(words, env=system.environment, stdout=writing, stderr=subprocess.DEVNULL)
    try:
        until(lambda: not select.select([], [writing], [], 0)[1], "the pipe is full")
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
    finally:
        process.kill()
        process.wait()
        os.close(reading)
        os.close(writing)


# The signal comes when a request is on its way, and before anybody waits for its answer.
INTERRUPTED = """
import signal, sys

import relay.sealed.asker

ask = relay.sealed.asker.Asker.ask

def interrupted(*arguments):
    ask(*arguments)
    signal.raise_signal(signal.SIGINT)

relay.sealed.asker.Asker.ask = interrupted

from relay.sealed.cli import main

main(sys.argv[1:])
"""


def test_an_interrupt_between_two_steps_ends_the_run_at_once(system: System, package: Path) -> None:
    words = (sys.executable, "-c", INTERRUPTED, "rpm", "--key", "modern", package)
    done = subprocess.run(words, env=system.environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stderr) == (130, "")


# A disk that gives rpm-rs or cryptography never; and the signal comes when the oracle has told its keys.
STALLED = """
import os, signal, sys

sys.path.insert(0, sys.argv[1])

import relay.sealed.commandline as commandline

known = commandline.hash_algorithm

def interrupted(*arguments):
    os.kill(os.getpid(), int(sys.argv[2]))
    return known(*arguments)

commandline.hash_algorithm = interrupted

from relay.sealed.cli import main

main(sys.argv[3:])
"""


@pytest.mark.parametrize("module", ["rpm_rs", "cryptography"])
@pytest.mark.parametrize(
    ("how", "key", "status"),
    [
        (signal.SIGINT, "modern", 130),
        (signal.SIGTERM, "modern", 130),
        (signal.SIGHUP, "modern", 130),
        (0, "unknown", 1),
    ],
)
def test_who_ends_does_not_wait_for_what_a_slow_disk_still_gives(  # noqa: PLR0917  three cases of each
    system: System, package: Path, module: str, how: int, key: str, status: int
) -> None:
    stalled = package.parent / "disk" / module
    stalled.mkdir(parents=True)
    (stalled / "__init__.py").write_text("import threading\nthreading.Event().wait()\n")
    words = (sys.executable, "-c", STALLED, stalled.parent, str(int(how)), "rpm", "--key", key, package)
    done = subprocess.run(words, env=system.environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == status
    assert "Traceback" not in done.stderr


# The signal comes while a package's successor has a name of its own, and has not taken the package's yet.
ENDED = """
import os, sys

replace = os.replace

def ended(source, target):
    if ".blind-oracle-" in os.fspath(source):
        os.kill(os.getpid(), int(sys.argv[1]))
    replace(source, target)

os.replace = ended

from relay.sealed.cli import main

main(sys.argv[2:])
"""


def has_a_signature(system: System, package: Path) -> bool:
    return told(sign(system, "rpm", "--key", "modern", "--existing", "keep", "--json", package))[0]["outcome"] == "kept"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_ends_a_run_finds_no_file_lying_about(system: System, package: Path, how: int) -> None:
    words = (sys.executable, "-c", ENDED, str(int(how)), "rpm", "--key", "modern", package)
    done = subprocess.run(words, env=system.environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stderr) == (130, "")
    assert [entry.name for entry in package.parent.iterdir()] == [package.name]
    assert has_a_signature(system, package)


def test_a_run_that_ignores_hangups_goes_on(system: System, package: Path) -> None:
    words = ("nohup", sys.executable, "-c", ENDED, str(int(signal.SIGHUP)), "rpm", "--key", "modern", package)
    done = subprocess.run(words, env=system.environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert has_a_signature(system, package)


def test_who_interrupts_a_run_does_not_wait_for_the_end_of_a_large_file(system: System, tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(1 << 38)  # a quarter of an hour's work
    words = (SIGN, "detached", "--key", "modern", image)
    process = subprocess.Popen(words, env=system.environment, stderr=subprocess.PIPE)
    try:
        counts = Path(f"/proc/{process.pid}/io")
        until(lambda: int(counts.read_text().split()[1]) > 1 << 28, "a part of it is read")
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=SECONDS) == (None, b"")
        assert process.returncode == 130
    finally:
        process.kill()
        process.wait()
    assert list(tmp_path.iterdir()) == [image]
