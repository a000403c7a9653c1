"""What can be said of the units without starting them; tests/hosts starts them."""

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentproxy.admin.layout import SystemLayout, load_oracle, load_signer
from agentproxy.admin.statedirectory import Wanted, write_configuration
from agentproxy.oracle.policyfile import load_policy
from agentproxy.signer.keysfile import load as load_keys
from relay.config import DEFAULT_CONFIG, load_config
from relay.enrolment import places_for

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNITS = sorted(
    path for path in SYSTEMD.glob("blind-oracle*") if path.suffix in {".path", ".service", ".socket", ".timer"}
)
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
EXAMPLES = SYSTEMD / "examples"
# Mode, user, group and path of one line of tmpfiles.d.
_DIRECTORY = re.compile(r"d (\S+) +(0[0-7]{3}) (\S+) +(\S+) +- -")


@pytest.fixture(name="root", scope="module")
def root_with_units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root directory in which the units' programs exist, and systemd's own units."""
    root = tmp_path_factory.mktemp("root")
    shutil.copytree("/usr/lib/systemd/system", root / "usr/lib/systemd/system", symlinks=True)
    for unit in UNITS:
        shutil.copy(unit, root / "usr/lib/systemd/system")
        for command in re.findall(r"^Exec\w+=[+!-]*(/\S+)", unit.read_text(), re.MULTILINE):
            program = root / command.lstrip("/")
            program.parent.mkdir(parents=True, exist_ok=True)
            program.touch(mode=0o755)
    return root


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_has_nothing_to_say_against_a_unit(unit: Path, root: Path) -> None:
    done = _analyze("verify", f"--root={root}", "--man=no", unit.name)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_a_mistake_in_a_unit_would_be_told(root: Path) -> None:
    wrong = root / "usr/lib/systemd/system/blind-oracle-wrong.service"
    wrong.write_text("[Service]\nExecStart=/bin/kill\nProtectSystm=strict\n")
    assert "ProtectSystm" in _analyze("verify", f"--root={root}", "--man=no", wrong.name).stderr


@pytest.mark.parametrize(
    ("name", "tenths"), [("blind-oracle-signer", 6), ("blind-oracle", 6), ("blind-oracle-relay", 15)]
)
def test_a_service_is_exposed_to_no_more_than_it_needs(name: str, tenths: int) -> None:
    unit = SYSTEMD / f"{name}.service"
    done = _analyze("security", "--offline=true", "--no-pager", f"--threshold={tenths}", str(unit))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_no_secret_stands_on_a_command_line_or_in_the_environment(unit: Path) -> None:
    assert not re.search(r"^(Environment|PassEnvironment)|SetCredential=", unit.read_text(), re.MULTILINE)


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit.suffix == ".socket"], ids=lambda unit: unit.name)
def test_every_socket_has_its_service_and_the_service_wants_it(unit: Path) -> None:
    named = re.search(r"^Service=(\S+)", unit.read_text(), re.MULTILINE)
    service = SYSTEMD / (named[1] if named else f"{unit.stem}.service")
    text = service.read_text()
    if unit.name.startswith(
        ("blind-oracle-http", "blind-oracle-metrics")
    ):  # not everybody's: enabled by hand, and there before the service
        assert f"Before={service.name}" in unit.read_text()
        # Enabled by hand, and brought along when the service is restarted.
        assert re.search(rf"^WantedBy=.*\b{re.escape(service.name)}$", unit.read_text(), re.MULTILINE)
    else:
        assert re.search(rf"^Requires=.*\b{re.escape(unit.name)}", text, re.MULTILINE)


def test_a_further_socket_of_the_relay_gets_the_unit_that_the_page_shows(root: Path) -> None:
    page = (SYSTEMD.parent / "docs" / "RUNNERS.md").read_text()
    blocks = re.findall(r"^(/etc/systemd/system/\S+\.socket):\n\n```ini\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    ((place, unit),) = blocks
    path, name, mode = re.findall(r"^(?:FileDescriptorName|ListenStream|SocketMode)=(\S+)", unit, re.MULTILINE)
    # What the same page adds to relay.yaml; the relay compares name and path, and its mode must not promise another.
    assert f'  - path: {path}\n    name: {name}\n    mode: "{mode}"\n' in page

    (root / "usr/lib/systemd/system" / Path(place).name).write_text(unit)
    done = _analyze("verify", f"--root={root}", "--man=no", Path(place).name)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
    # A relay that runs takes no more sockets: the service brings them along when it is restarted.
    assert re.search(r"^WantedBy=.*\bblind-oracle-relay\.service$", unit, re.MULTILINE)


def test_the_page_about_ssh_says_that_a_packaged_relay_needs_a_unit_for_its_far_socket() -> None:
    page = (SYSTEMD.parent / "docs" / "SSH.md").read_text()
    (name,) = re.findall(r"far\.sock\n    name: (\S+)", page)
    assert f"`FileDescriptorName={name}`" in page


def test_a_relay_may_listen_where_prometheus_is_told_to_look() -> None:
    scraped = (SYSTEMD.parent / "deployment/prometheus/prometheus.yml").read_text().partition("blind-oracle-relay")[2]
    port = re.search(r"127\.0\.0\.1:(\d+)", scraped)
    assert port is not None
    unit = (SYSTEMD / "blind-oracle-relay.service").read_text()
    assert "\nSocketBindDeny=any\n" in unit
    assert f"\nSocketBindAllow=tcp:{port[1]}\n" in unit


def test_the_relay_and_the_signer_see_who_calls_them() -> None:
    relay, signer = ((SYSTEMD / f"blind-oracle-{name}.service").read_text() for name in ("relay", "signer"))
    assert "\nPrivateUsers=yes" not in relay + signer  # every caller would be uid 65534
    assert "\nProtectProc=" not in relay  # its callers' command lines would be hidden


def test_tmpfiles_make_what_init_makes() -> None:
    made = set(_directories("blind-oracle.conf"))
    wanted = {(str(one.path), one.mode, one.user, one.group) for one in SystemLayout().directories}
    # What lies inside a directory of the signer's alone, `init` makes with it.
    assert made == {one for one in wanted if not one[0].startswith("/var/lib/blind-oracle-signer/")}


def test_the_relays_directories_are_those_that_enrolling_uses() -> None:
    places = places_for(DEFAULT_CONFIG)
    assert {path for path, *_ in _directories("blind-oracle-relay.conf")} == {
        str(places.config.parent),
        str(places.state),
    }
    assert f"ListenStream={places.socket}\n" in (SYSTEMD / "blind-oracle-relay.socket").read_text()


def test_every_user_and_group_of_a_unit_is_made_by_sysusers() -> None:
    made = {
        line.split()[1]
        for file in (SYSTEMD / "sysusers.d").iterdir()
        for line in file.read_text().splitlines()
        if line[:2] in {"u ", "g "}
    }
    named = {
        name
        for unit in UNITS
        for name in re.findall(r"^(?:User|Group|SocketGroup)=(\S+)", unit.read_text(), re.MULTILINE)
    }
    assert named <= made


def test_the_presets_name_units_that_are_there() -> None:
    for file in (SYSTEMD / "system-preset").iterdir():
        for line in file.read_text().splitlines():
            assert line.startswith("#") or (SYSTEMD / line.split()[1]).exists(), line


def test_the_example_configuration_of_an_oracle_is_what_init_writes(tmp_path: Path) -> None:
    layout = SystemLayout(tmp_path)
    for directory in (layout.etc, layout.signer):
        directory.mkdir(parents=True)
    write_configuration(layout, Wanted("oracle-1", ("oracle.example.org",), "[::]:7443"))
    for made in (layout.oracle_config, layout.policy, layout.signer_config, layout.signer / "keys.yaml"):
        example = EXAMPLES / made.relative_to(layout.etc)
        wanted = made.read_text().replace(f"{tmp_path}/", "/")
        assert example.read_text() == wanted, f"{example}: the template has changed, and this must be changed with it"


def test_the_example_configuration_loads() -> None:
    oracle = load_oracle(EXAMPLES / "oracle.yaml")
    assert oracle.signer.start is False
    assert load_policy(oracle.policy).runners == {}
    signer = load_signer(oracle)
    assert (signer.socket, signer.peer_users) == (oracle.signer.socket, ("blind-oracle",))
    assert load_keys(signer.keys_file).keys == {}


def test_the_example_configuration_of_a_relay_loads(tmp_path: Path) -> None:
    # A copy, since a relay keeps what it has read beside the file.
    config = load_config(Path(shutil.copy(EXAMPLES / "relay.yaml", tmp_path)))
    places = places_for(DEFAULT_CONFIG)
    assert (config.state, [one.path for one in config.sockets]) == (places.state, [places.socket])


def _directories(name: str) -> Iterator[tuple[str, int, str, str]]:
    for line in (SYSTEMD / "tmpfiles.d" / name).read_text().splitlines():
        if not line.startswith(("#", "a+ /dev/cpu_dma_latency ")):
            found = _DIRECTORY.fullmatch(line)
            assert found is not None, line
            yield found[1], int(found[2], 8), found[3], found[4]


def _analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes users and directories of others")
@pytest.mark.parametrize("name", sorted(file.name for file in (SYSTEMD / "sysusers.d").iterdir()))
def test_systemd_makes_users_and_directories_without_a_word(name: str, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for kind, program in (("sysusers.d", ["systemd-sysusers"]), ("tmpfiles.d", ["systemd-tmpfiles", "--create"])):
        if not (SYSTEMD / kind / name).exists():
            continue
        shutil.copytree(SYSTEMD / kind, tmp_path / "usr/lib" / kind)
        done = subprocess.run(
            [*program, f"--root={tmp_path}", name], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert "line" not in done.stderr
        assert "not a valid" not in done.stderr
    for path, mode, user, _ in _directories(name) if (SYSTEMD / "tmpfiles.d" / name).exists() else ():
        status = (tmp_path / path.lstrip("/")).stat()
        assert stat.S_IMODE(status.st_mode) == mode
        assert (status.st_uid == 0) == (user == "root"), path
