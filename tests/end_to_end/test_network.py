"""Real processes on hosts of their own, with one registry, and a network between them that fails."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agentproxy.admin.layout import Layout
from tests.admin.shell import blind_oracle
from tests.end_to_end.load import gpg_load_on
from tests.end_to_end.networks import Network, can_make_networks, joined
from tests.end_to_end.offline import Offline
from tests.end_to_end.place import SECONDS, Done, forget_home, until
from tests.oracle.postgresql import server
from tests.signer.logs import records_in

pytestmark = pytest.mark.skipif(not can_make_networks(), reason="making network namespaces needs root")

DEADLINE_SECONDS = 30  # what a relay has unless somebody says otherwise
NODES = ("a", "b")
ROWS = ("modern", "modern")  # two endless rows of gpg
PROGRAMS = Path(sys.executable).parent


@dataclass
class Site:
    """A build server and two oracles, each on a host of its own."""

    root: Path
    network: Network
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def layout(self, node: str) -> Layout:
        return Layout(self.root / node)

    @property
    def config(self) -> Path:
        return self.root / "relay" / "relay.yaml"

    @property
    def home(self) -> Path:
        return self.root / "gnupg"

    def serve(self, name: str) -> None:
        """Start a part on its host, and wait until it listens."""
        program, config = PROGRAMS / "blind-oracle", self.layout(name).oracle_config
        address_file = self.layout(name).run / "oracle.address"
        if name == "relay":
            program, config = PROGRAMS / "blind-oracle-relay", self.config
        address_file.unlink(missing_ok=True)
        command = [*self.network.inside(name), program, "serve", f"--config={config}"]
        with (self.root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, stderr=log)
        if name == "relay":
            until(self.is_connected, "the relay finds an oracle")
        else:
            until(address_file.exists, f"oracle {name} listens")

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def relay(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        program = PROGRAMS / "blind-oracle-relay"
        command = [*self.network.inside("relay"), program, *words, f"--config={self.config}"]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)

    def is_connected(self) -> bool:
        return self.relay("status").returncode == 0

    def standings(self) -> dict[str, str]:
        done = self.relay("status", "--json")
        return {one["node"]: one["standing"] for one in json.loads(done.stdout)["oracles"]} if done.stdout else {}

    def until_first_is_best(self) -> None:
        until(lambda: self.standings() == {"a": "best", "b": "warm"}, "the first has its work back", 2 * SECONDS)

    def sign(self, name: str) -> Done:
        command = ["gpg", "--homedir", self.home, "--batch", "--no-tty", "-u", f"{name}@example.org", "--armor"]
        return subprocess.run(
            [*command, "--detach-sign"], input="some text", capture_output=True, text=True, check=False, timeout=SECONDS
        )

    def signed(self) -> int:
        logs = (records_in(self.layout(node).audit) for node in NODES)
        return sum(record["outcome"] == "signed" for log in logs for record in log)


@pytest.fixture(name="made", scope="module")
def made_site(offline: Offline) -> Iterator[Site]:
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="bo", dir="/tmp"))
        registry = stack.enter_context(server()).new_database()
        site = Site(Path(name), stack.enter_context(joined("relay", *NODES)))
        try:
            make_oracles(site, offline, registry)
            enrol(site)
            yield site
        finally:
            for process in site.processes.values():
                process.terminate()
                process.wait()
            forget_home(site.home)


def make_oracles(site: Site, offline: Offline, registry: str) -> None:
    """As docs/OPERATIONS.md, Several oracles, tells it."""
    addresses = {node: f"{site.network.address(node)}:7443" for node in NODES}
    first = site.layout("a")
    for node in NODES:
        others = [f"--other-oracle={address}" for other, address in addresses.items() if other != node]
        options = ["--node", node, "--host", site.network.address(node), "--listen", addresses[node], *others]
        shared = ["--registry-database", registry, *([] if node == "a" else ["--authority", first.signer])]
        operator("init", site.root / node, *options, *shared)
        config = f"--config={site.layout(node).oracle_config}"
        operator("key", "import", offline.exports["modern"], "--name=modern", "--policy-add", config)
    enrolment = f"--output={site.root / 'b1.enrolment'}"
    operator("runner", "add", "b1", "--key=modern", "--policy-add", enrolment, f"--config={first.oracle_config}")
    shutil.copy(first.policy, site.layout("b").policy)
    for node in NODES:
        site.serve(node)


def operator(*words: str | Path) -> None:
    result = blind_oracle(*words)
    assert result.status == 0, result.errors


def enrol(site: Site) -> None:
    site.config.parent.mkdir()
    places = ("--state", site.root / "relay" / "state", "--socket", site.root / "relay" / "S.relay")
    done = site.relay("enroll", site.root / "b1.enrolment", *places)
    assert done.returncode == 0, done.stderr
    site.serve("relay")
    done = site.relay("setup", "--home", site.home)
    assert done.returncode == 0, done.stderr


@pytest.fixture(name="site")
def whole_site(made: Site) -> Site:
    for node in NODES:
        if node not in made.processes:
            made.serve(node)
    until(lambda: set(made.standings().values()) == {"best", "warm"}, "both oracles are there", 2 * SECONDS)
    return made


def pass_time(seconds: float) -> None:
    """The length of a cut is what the test is about."""
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() >= end, "time passes", seconds + SECONDS)


@pytest.mark.parametrize("seconds", [1, 10])
def test_a_network_that_is_cut_for_a_while_delays_gpg_and_fails_none(site: Site, seconds: int) -> None:
    before = site.signed()
    with gpg_load_on(site, ROWS) as load:
        load.wait_for(5)
        with site.network.cut():
            pass_time(seconds)
        load.wait_for(5)
    assert load.errors == []
    assert max(load.seconds) < DEADLINE_SECONDS
    assert site.signed() - before >= load.count


def test_an_oracle_behind_a_cut_cable_costs_one_gpg_some_seconds_and_the_next_ones_none(site: Site) -> None:
    site.until_first_is_best()
    with gpg_load_on(site, ROWS) as load:
        load.wait_for(5)
        with site.network.cut_off("a"):
            load.wait_for(50)
            until(lambda: site.standings()["a"] == "away", "the relay has given it up")
            assert site.standings()["b"] == "best"
        site.until_first_is_best()
        load.wait_for(5)
    assert load.errors == []
    assert max(load.seconds) < DEADLINE_SECONDS / 2


def test_oracles_that_die_behind_a_cut_are_found_again_although_nobody_said_goodbye(site: Site) -> None:
    with gpg_load_on(site, ROWS) as load:
        load.wait_for(5)
        with ExitStack() as stack:
            stack.enter_context(site.network.cut())
            for node in NODES:
                site.kill(node)
                site.serve(node)
        load.wait_for(5)
    assert load.errors == []
    assert max(load.seconds) < DEADLINE_SECONDS


def test_a_relay_that_hangs_for_a_while_goes_on_where_it_was(site: Site) -> None:
    process = site.processes["relay"]
    with gpg_load_on(site, ROWS) as load:
        load.wait_for(5)
        os.kill(process.pid, signal.SIGSTOP)
        pass_time(3)
        os.kill(process.pid, signal.SIGCONT)
        load.wait_for(5)
    assert load.errors == []
