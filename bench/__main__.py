"""`make bench`: every row is measured beside its reference in the same run, interleaved, in several rounds.

usage: python -m bench [--rounds N] [--quick] [--only GROUP]...
"""

import argparse
import platform
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bench import audit_log, by_caller, raw, relay_cost
from bench.agent_load import pksign_p50_us, pksign_rate
from bench.distance import DELAYS, by_relay, by_ssh
from bench.framed_load import flood, signing_rate, single_p50_ms
from bench.http_load import HttpLoad, plain_api
from bench.kills import DEADLINE_SECONDS, sign_beside_kills
from bench.packages import Workload, spread
from bench.processes import Stolen, cpu_seconds, private_kib
from bench.rows import Row, at_least, at_most, print_table, reached, shown, within, write
from bench.sides import CLIENT, KEYS, Ours, Reference, ours, reference

RESULTS = Path(__file__).with_name("results") / "latest.json"
ROOT = Path(__file__).parent.parent

P50_GOALS = {"rsa4096": 0.15, "rsa3072": 0.22, "ed25519": 2.5}
RATE_GOALS = {"rsa4096": 10.0, "ed25519": 1.0}
RPMSIGN_GOALS = {"rsa4096": 0.35, "rsa3072": 0.52, "ed25519": 1.4}
ORACLE_GOAL = 0.60
FOUR_RPMSIGN_GOAL = 0.23
SEALED_GOAL = 10.0
MEMORY_GOAL = 1.5
START_GOAL = 2.0
HTTP_GOAL = 3.0
FAIRNESS_GOAL = 5.0  # "at most a few signatures"
FLOOD = 2000
ROUND_TRIPS_GOAL = 1.1


class Bench:
    """One run: both sides are up, and each method measures one line of the table."""

    def __init__(self, ours: Ours, reference: Reference, directory: Path, rounds: int, *, quick: bool) -> None:
        self.ours = ours
        self.reference = reference
        self.directory = directory
        self.rounds = range(rounds)
        self.quick = quick
        self.seconds = 1.0 if quick else 4.0
        self.packages = 40 if quick else 1000
        self.sealed_packages = 20 if quick else 200
        self.idle = 100 if quick else 1000
        self.signatures = 200 if quick else 1000
        self.looks = 50 if quick else 300
        self.workload = Workload(directory / "packages")

    def rows(self, wanted: Sequence[str]) -> Iterator[Row]:
        """The rows of these groups, each group's when all of it has been measured."""
        for name, measure in GROUPS.items():
            if name in wanted:
                stolen, measured = Stolen(), []
                for row in measure(self):
                    print(f"measured: {row.what}", file=sys.stderr)
                    measured.append(row)
                share = stolen.share()
                yield from (replace(row, stolen=share) for row in measured)

    def ceilings(self) -> Iterator[Row]:
        """What this disk and this processor allow."""
        over = [raw.fdatasync_p50_us(self.directory, over_zeros=True) for _ in self.rounds]
        growing = [raw.fdatasync_p50_us(self.directory, over_zeros=False) for _ in self.rounds]
        yield shown("fdatasync of one record over zeros, to one that makes the file grow, p50 us", over, growing)
        for name in KEYS:
            sign = raw.ed25519_signer() if name == "ed25519" else raw.rsa_signer(int(name[3:]))
            alone = [raw.one_thread_p50_us(sign) for _ in self.rounds]
            agent = [pksign_p50_us(self.reference.target(name), 30) for _ in self.rounds]
            yield shown(f"raw cryptography, one {name} signature, to gpg-agent's PKSIGN, p50 us", alone, agent)

    def latency(self) -> Iterator[Row]:
        """One client."""
        for name, goal in P50_GOALS.items():
            count = 500 if name == "ed25519" else 60
            mine, theirs = [], []
            for _ in self.rounds:
                mine.append(pksign_p50_us(self.ours.target(name), count))
                theirs.append(pksign_p50_us(self.reference.target(name), count))
            yield at_most(f"PKSIGN p50 us, 1 client, {name}, to gpg-agent", mine, theirs, goal)

    def rates(self) -> Iterator[Row]:
        """Many clients."""
        for name, goal in RATE_GOALS.items():
            for clients in (16, 64):
                mine, theirs = [], []
                for _ in self.rounds:
                    mine.append(pksign_rate(self.ours.target(name), clients, self.seconds))
                    theirs.append(pksign_rate(self.reference.target(name), clients, self.seconds))
                yield at_least(f"PKSIGN a second, {clients} clients, {name}, to gpg-agent", mine, theirs, goal)

    def _sign_packages(self, name: str, count: int, processes: int) -> tuple[float, float]:
        environment = self.ours.environment
        home, fingerprint = Path(environment["GNUPGHOME"]), self.ours.keys[name].fingerprint
        mine = self.workload.sign_seconds(home, fingerprint, count, processes, environment)
        return mine, self.workload.sign_seconds(self.reference.home, fingerprint, count, processes)

    def rpmsign(self) -> Iterator[Row]:
        """What a release engineer waits for."""
        for name, goal in RPMSIGN_GOALS.items():
            pairs = [self._sign_packages(name, 50, 1) for _ in self.rounds]
            mine, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
            yield at_most(f"rpmsign --addsign of 50 RPMs, s, {name}, to gpg-agent", mine, theirs, goal)

    def four_rpmsign(self) -> Iterator[Row]:
        """A mass rebuild; one round, since the reference alone takes half a minute."""
        mine, theirs = self._sign_packages("rsa4096", self.packages, 4)
        what = f"{self.packages} RPMs, four rpmsign, s, rsa4096, to gpg-agent"
        yield at_most(what, [mine], [theirs], FOUR_RPMSIGN_GOAL)

    def sealed(self) -> Iterator[Row]:
        """Packages without gpg: the same number with rpmsign and a local gpg-agent, to its rate."""
        count = self.sealed_packages
        for name in ("rsa4096", "ed25519"):
            fingerprint = self.ours.keys[name].fingerprint
            mine, theirs = [], []
            for _ in self.rounds:
                mine.append(count / self.workload.seal_seconds(CLIENT, fingerprint, count, self.ours.environment))
                theirs.append(count / self.workload.sign_seconds(self.reference.home, fingerprint, count))
            what = f"blind-oracle-sign rpm of {count} RPMs, a second, {name}, to rpmsign and gpg-agent"
            yield at_least(what, mine, theirs, SEALED_GOAL) if name == "rsa4096" else shown(what, mine, theirs)

    def oracle_and_signer(self) -> Iterator[Row]:
        """Oracle and signer without relay and gpg, their load on the same cores."""
        for name in ("rsa4096", "ed25519"):
            sign = raw.ed25519_signer() if name == "ed25519" else raw.rsa_signer(4096)
            mine, ceiling, cost = [], [], []
            for _ in self.rounds:
                before = cpu_seconds(self.ours.pids["oracle"]) + cpu_seconds(self.ours.pids["signer"])
                mine.append(self._framed_rate(name))
                after = cpu_seconds(self.ours.pids["oracle"]) + cpu_seconds(self.ours.pids["signer"])
                cost.append((after - before) / (mine[-1] * self.seconds) * 1e6)
                ceiling.append(raw.two_thread_rate(sign, self.seconds))
            what = f"oracle and signer, {name} a second, to raw two-thread signing"
            yield at_least(what, mine, ceiling, ORACLE_GOAL) if name == "rsa4096" else shown(what, mine, ceiling)
            yield shown(f"CPU us a signature in oracle and signer, {name}", cost)
        yield self._relay_cpu()

    def _framed_rate(self, name: str) -> float:
        return signing_rate(self.ours.access(), self.ours.keys[name].keygrip, self.seconds)

    def http(self) -> Iterator[Row]:
        """The HTTP API with keep-alive connections, beside the framed stream and an application that only signs."""
        access = self.ours.http_runner("ed25519")
        address = self.ours.environment["BLIND_ORACLE_HTTP"].removeprefix("https://")
        framed, mine, theirs = [], [], []
        with ExitStack() as stack:
            load = stack.enter_context(HttpLoad(access, address))
            plain = stack.enter_context(HttpLoad(access, stack.enter_context(plain_api(self.ours.tls))))
            for side in (load, plain):
                side.rate(self.seconds / 4)  # the first requests find cold code
            for _ in self.rounds:
                framed.append(self._framed_rate("ed25519"))
                mine.append(load.round(self.seconds))
                theirs.append(plain.round(self.seconds))
        what, rates = "HTTP API, 32 connections, ed25519 a second", [r.rate for r in mine]
        yield shown(f"{what}, to the framed stream", rates, framed)
        yield shown(f"{what}, to a plain application", rates, [r.rate for r in theirs])
        what = "at half of its rate, p99 ms, to its p50"
        yield at_most(f"HTTP API {what}", [r.p99 for r in mine], [r.p50 for r in mine], HTTP_GOAL)
        yield shown(f"the plain application {what}", [r.p99 for r in theirs], [r.p50 for r in theirs])

    def fairness(self) -> Iterator[Row]:
        """What another runner's mass rebuild costs one signature."""
        second, keygrip = self.ours.second_runner(), self.ours.keys["rsa4096"].keygrip
        beside, alone = [], []
        for _ in self.rounds:
            alone.append(single_p50_ms(second, keygrip, 20))
            with flood(self.ours.access(), keygrip, FLOOD):
                beside.append(single_p50_ms(second, keygrip, 20))
        what = f"one signature beside another runner's {FLOOD} digests, ms, rsa4096, to an idle oracle"
        yield at_most(what, beside, alone, FAIRNESS_GOAL)

    def _relay_cpu(self) -> Row:
        before = cpu_seconds(self.ours.pids["relay"])
        rate = pksign_rate(self.ours.target("ed25519"), 16, self.seconds)
        cost = (cpu_seconds(self.ours.pids["relay"]) - before) / (rate * self.seconds) * 1e6
        return shown("CPU us a signature in the relay, ed25519", [cost])

    def relay_memory(self) -> Iterator[Row]:
        """At rest, and for a connection more."""
        socket, pid = self.ours.target("ed25519").socket, self.ours.pids["relay"]
        bare_socket = self.directory / "bare.sock"
        with relay_cost.bare(bare_socket) as bare_pid:
            idle = [float(private_kib(pid))]
            yield at_most("relay: idle memory, KiB, to bare trio", idle, [float(private_kib(bare_pid))], MEMORY_GOAL)
            mine = [relay_cost.connection_kib(pid, socket, self.idle)]
            theirs = [relay_cost.connection_kib(bare_pid, bare_socket, self.idle)]
            yield at_most("relay: memory per connection, KiB, to bare trio", mine, theirs, MEMORY_GOAL)

    def beside_idle_connections(self) -> Iterator[Row]:
        """One client, while many others are connected and say nothing."""
        socket = self.ours.target("ed25519").socket
        with relay_cost.idle_connections(socket, self.idle):
            beside = [pksign_p50_us(self.ours.target("ed25519"), 200)]
            what = f"PKSIGN p50 us, 1 client beside {self.idle} idle connections, ed25519, to gpg-agent"
            yield shown(what, beside, [pksign_p50_us(self.reference.target("ed25519"), 200)])

    def audit_verify(self) -> Iterator[Row]:
        """How fast an auditor reads a long log, with all processors."""
        directory, count = self.directory / "audit-log", 100_000 if self.quick else 1_000_000
        directory.mkdir()
        audit_log.write_log(directory, count)
        began = time.perf_counter()
        audit_log.check(directory, count)
        yield reached("audit verify, records a second", count / (time.perf_counter() - began), audit_log.GOAL)

    def relay_start(self) -> Iterator[Row]:
        """From starting the process to the first signature over a fresh TLS connection."""
        relay = self.ours.stop_relay()
        socket, bare_socket = self.ours.target("ed25519").socket, self.directory / "bare-start.sock"
        bare = [sys.executable, "-I", str(ROOT / "bench" / "bare.py"), str(bare_socket)]
        mine, theirs = [], []
        for _ in (*self.rounds, None):  # the first round fills the page cache
            target, environment = self.ours.target("ed25519"), self.ours.environment
            mine.append(relay_cost.first_answer_seconds(relay, socket, target, environment))
            theirs.append(relay_cost.first_answer_seconds(bare, bare_socket, None))
        yield at_most("relay: start to first signature, s, to bare trio", mine[1:], theirs[1:], START_GOAL)

    def activation(self) -> Iterator[Row]:
        """From the first connection to the first signature, both started by their sockets."""
        yield by_caller.activation(self.ours, self.directory, len(self.rounds))

    def claims(self) -> Iterator[Row]:
        """The same signatures with and without a look at who asks."""
        yield by_caller.claims(self.ours, self.workload.package, len(self.rounds), self.looks)

    def distance(self) -> Iterator[Row]:
        """Far away from the key: all that counts is how often something goes there and back."""
        key, place = "rsa3072", self.directory / "distance"
        with by_relay(self.ours, place, key) as mine, by_ssh(self.reference, place / "ssh", key) as theirs:
            for delay in DELAYS[1:]:
                pairs = [(mine.round_trips(delay, 15), theirs.round_trips(delay, 5)) for _ in self.rounds]
                what = f"gpg --detach-sign at {delay} ms: round trips more than at 0, to an agent forwarded by ssh"
                yield within(what, [pair[0] for pair in pairs], [pair[1] for pair in pairs], ROUND_TRIPS_GOAL)

    def kills(self) -> Iterator[Row]:
        """Two oracles that are killed in turn; one round, since it counts and measures nothing."""
        tally = sign_beside_kills(self.directory / "two", self.reference.keys["rsa3072"], self.signatures)
        for error in tally.lost:
            print(f"lost: {error}", file=sys.stderr)
        bad = float(len(tally.lost) + tally.wrong)
        yield within(f"lost or wrong of {tally.signed} gpg beside kills of oracle A, then B", [bad], None, 0)
        what = "the longest of these gpg, s, to the relay's deadline"
        yield within(what, [tally.longest], [DEADLINE_SECONDS], DEADLINE_SECONDS)


# In the order of the table; memory first, while the relay has done nothing yet.
GROUPS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "memory": Bench.relay_memory,
    "ceilings": Bench.ceilings,
    "latency": Bench.latency,
    "rates": Bench.rates,
    "rpmsign": Bench.rpmsign,
    "mass-signing": Bench.four_rpmsign,
    "sealed": Bench.sealed,
    "oracle": Bench.oracle_and_signer,
    "http": Bench.http,
    "fairness": Bench.fairness,
    "idle-connections": Bench.beside_idle_connections,
    "audit": Bench.audit_verify,
    "start": Bench.relay_start,
    "activation": Bench.activation,
    "claims": Bench.claims,
    "distance": Bench.distance,
    "kills": Bench.kills,
}


def main() -> None:
    """Run everything; the exit status is 0 whatever the numbers are: they are for reading, not for gating."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a short run that shows that everything works")
    parser.add_argument(
        "--only", action="append", choices=GROUPS, metavar="GROUP", help=f"measure only this: {', '.join(GROUPS)}"
    )
    arguments = parser.parse_args()
    # Beside the results, not in /tmp: the log must lie on a real disk, not on a tmpfs, to have a price.
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    stolen = Stolen()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=cache) as name:
        directory = Path(name)
        spread(directory)
        with reference(directory / "gnupg") as theirs, ours(directory / "ours", theirs.keys) as mine:
            bench = Bench(mine, theirs, directory, arguments.rounds, quick=arguments.quick)
            rows = list(bench.rows(arguments.only or list(GROUPS)))
    # On another one, or another build of it, the numbers are others.
    print(f"measured on Python {platform.python_version()} of {sys.base_prefix}, {ssl.OPENSSL_VERSION}")
    print(f"the hypervisor gave {stolen.share():.1%} of the processors' time to others")
    print_table(rows)
    write(rows, RESULTS)


if __name__ == "__main__":
    main()
