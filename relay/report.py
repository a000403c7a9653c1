"""`status` for people: what the relay tells about itself, as lines of text."""

from collections.abc import Iterator

from agentproxy.protocol.fields import Claims
from relay.clocks import MAX_CLOCK_SECONDS
from relay.connectionstate import OracleState
from relay.fallbackreport import fallback_lines
from relay.requestlog import RequestEntry
from relay.status import SocketReport, StatusReport

__all__ = ["status_lines"]

_MOST_COMMANDS = 2  # gpg, and what called it


def status_lines(report: StatusReport) -> Iterator[str]:
    """The report, the most important line first."""
    way = report.connection
    since = way.since.strftime("%Y-%m-%d %H:%M:%S UTC")
    if way.connected:
        yield f"relay {report.runner}: connected to {way.node} at {way.address} since {since}"
    else:
        yield f"relay {report.runner}: NOT CONNECTED to {way.address} since {since}: {way.problem}"
    if len(report.oracles) > 1:
        yield from map(_oracle_line, report.oracles)
    yield from (_clock_line(one) for one in report.oracles if abs(one.clock_ahead_seconds or 0) > MAX_CLOCK_SECONDS)
    yield f"  {report.software}, pid {report.pid}, {report.gpg_connections} gpg connected, {report.waiting} waiting"
    if report.fallback is not None:
        yield from fallback_lines(report.fallback)
    for socket in report.sockets:
        yield "  " + _socket_line(socket)
    moved = f", {report.moved} tried again with another oracle" if report.moved else ""
    yield "  requests: " + ", ".join(f"{count} {outcome}" for outcome, count in report.counts.items()) + moved
    for key in report.keys:
        expires = f", expires {key.expires:%Y-%m-%d}" if key.expires else ""
        yield f"  key {key.name} ({key.algorithm}, {key.key_type}{expires}): {key.fingerprint} {key.user_id}"
    if not report.keys:
        yield "  no keys: the oracle's policy gives this runner none, or it was never reached"
    for entry in report.last:
        yield from _entry_lines(entry)


def _oracle_line(oracle: OracleState) -> str:
    node = f" ({oracle.node})" if oracle.node else ""
    problem = f": {oracle.problem}" if oracle.problem else ""
    return f"  oracle {oracle.address}{node} {oracle.standing.value} since {oracle.since:%Y-%m-%d %H:%M:%S}{problem}"


def _clock_line(oracle: OracleState) -> str:
    ahead = oracle.clock_ahead_seconds or 0
    name = oracle.node or oracle.address
    side = "ahead of" if ahead > 0 else "behind"
    return f"  CLOCK: this host is {abs(ahead):.0f} s {side} {name}: certificates may fail"


def _socket_line(socket: SocketReport) -> str:
    only = f", only {', '.join(socket.keys)}" if socket.keys else ""
    purpose = f", for {socket.distribution}" if socket.distribution else ""
    return f"socket {socket.name} {socket.path}{purpose}{only}"


def _entry_lines(entry: RequestEntry) -> Iterator[str]:
    name = entry.key or entry.keygrip or "-"
    own = f", FALLBACK ({entry.fallback})" if entry.fallback else ""
    what = f"{entry.outcome.value} {name} {entry.duration_ms} ms"
    yield f"  {entry.time:%Y-%m-%d %H:%M:%S} {what}, request {entry.id}{own}"
    if len(entry.nodes) > 1:
        yield f"      sent to {', then '.join(entry.nodes)}"
    if entry.uid is not None:
        yield f"      {_caller(entry)}"
    if entry.claims:
        yield from (f"      claimed {line}" for line in _claimed(entry.claims))
    if entry.reason:
        says = f" (gpg says: {entry.gpg_says})" if entry.gpg_says else ""
        yield f"      {entry.code}: {entry.reason}{says}"


def _caller(entry: RequestEntry) -> str:
    user = f" {entry.claims.user}" if entry.claims and entry.claims.user else ""
    by = f" by socket {entry.socket}" if entry.socket else ""
    return f"uid {entry.uid}{user}, pid {entry.pid}{by}"


def _claimed(claims: Claims) -> Iterator[str]:
    for command in claims.commands[:_MOST_COMMANDS]:
        yield f"command: {command}"
    if claims.file:
        yield f"file: {claims.file}"
    if claims.package:
        yield f"package: {claims.package}"
    if claims.job:
        yield "job: " + ", ".join(f"{name} {value}" for name, value in claims.job.items())
    if claims.distributions:
        yield f"distribution: {', '.join(claims.distributions)}"
