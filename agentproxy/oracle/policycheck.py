"""Mistakes in a policy: all of them at once, each with its path. Values in, problems out."""

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from agentproxy.oracle.policy import KeyRule, Policy, RunnerRule, mismatch, served_keys
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import KeyFacts, check_name
from agentproxy.protocol.frames import MAX_PAYLOAD
from agentproxy.protocol.key_messages import ServedKey
from agentproxy.protocol.messages import FROM_ORACLE
from agentproxy.protocol.oracle_messages import KeysChanged
from agentproxy.protocol.values import frozen

__all__ = ["MAX_KEYS_BYTES", "Problem", "check"]

# Of a runner's keys in one message; what a `welcome` says beside them is shorter than the rest.
MAX_KEYS_BYTES = MAX_PAYLOAD - 1024

_PATTERN = re.compile(r"[A-Za-z0-9*?][A-Za-z0-9._+*?-]{0,63}")


@frozen
class Problem:
    """One mistake, or one thing to know (`warning`), at its path in the file."""

    path: str
    message: str
    warning: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def check(policy: Policy, keys: Iterable[KeyFacts] = ()) -> tuple[Problem, ...]:
    """Everything that is wrong with a policy.

    Args:
        keys: what the signer serves; without it, combinations that depend on a key's algorithm go unseen here
            (and are still refused when somebody asks for such a signature).
    """
    facts = {key.fingerprint: key for key in keys}
    problems: list[Problem] = []
    for name, rule in policy.keys.items():
        problems += _check_key(name, rule, facts.get(rule.fingerprint), signer_known=bool(facts))
    problems += _doubled_fingerprints(policy)
    for name, runner in policy.runners.items():
        problems += _check_runner(policy, name, runner)
    if all(problem.warning for problem in problems):  # a wrong rule cannot become a message, whose size could be told
        problems += _check_sizes(policy, facts.values())
    return tuple(problems)


def _check_key(name: str, rule: KeyRule, facts: KeyFacts | None, *, signer_known: bool) -> Iterator[Problem]:
    path = f"keys.{name}"
    yield from _check_name(path, name)
    yield from _check_name(f"{path}.type", rule.type)
    for index, pattern in enumerate(rule.distributions):
        at = f"{path}.distributions[{index}]"
        yield from _check_pattern(at, pattern)
        if reason := mismatch(rule, None if facts is None else facts.public_key, pattern):
            yield Problem(at, reason)
    yield from _doubles(f"{path}.distributions", rule.distributions)
    if not rule.hash_algorithms:
        yield Problem(f"{path}.hash_algorithms", "expected at least one")
    for index, algorithm in enumerate(rule.hash_algorithms):
        at, word = f"{path}.hash_algorithms[{index}]", algorithm.name.lower()
        if algorithm.is_broken:
            yield Problem(
                at, f"{word} is broken: whoever uses this key can prepare two files of one digest", warning=True
            )
        if facts is not None and algorithm not in facts.hash_algorithms:
            yield Problem(at, f"the signer's keys file does not allow {word} for this key", warning=True)
    if facts is not None and facts.can_certify:
        use = "it is served for seal only" if facts.seal_only else "whoever may sign with it could change certificates"
        yield Problem(path, f"the key can certify; {use}", warning=True)
    if facts is None and signer_known:
        yield Problem(f"{path}.fingerprint", "the signer serves no such key", warning=True)


def _doubled_fingerprints(policy: Policy) -> Iterator[Problem]:
    counts = Counter(rule.fingerprint for rule in policy.keys.values())
    for name, rule in policy.keys.items():
        if counts[rule.fingerprint] > 1 and policy.name_of(rule.fingerprint) != name:
            yield Problem(f"keys.{name}.fingerprint", f"the same as keys.{policy.name_of(rule.fingerprint)}'s")


def _check_runner(policy: Policy, name: str, runner: RunnerRule) -> Iterator[Problem]:
    path = f"runners.{name}"
    yield from _check_name(path, name)
    for index, key in enumerate(runner.keys):
        if key not in policy.keys:
            yield Problem(f"{path}.keys[{index}]", f"expected a name from keys, got {key!r}")
    yield from _doubles(f"{path}.keys", runner.keys)
    for index, pattern in enumerate(runner.distributions):
        yield from _check_pattern(f"{path}.distributions[{index}]", pattern)
    for index, network in enumerate(runner.networks):
        yield from _check_network(f"{path}.networks[{index}]", network)
    yield from _check_rates(path, runner)
    if runner.token_only:
        yield Problem(f"{path}.token_only", "whoever reads the token can sign: there is no certificate", warning=True)
    if runner.fallback:
        message = "while no oracle can, it may sign with a key of its own, and record that itself"
        yield Problem(f"{path}.fallback", message, warning=True)


def _check_sizes(policy: Policy, served: Iterable[KeyFacts]) -> Iterator[Problem]:
    """A relay gets all keys of its runner in one message; one that is too large would end each connection."""
    sizes: dict[ServedKey, int] = {}
    empty = len(FROM_ORACLE.encode(KeysChanged(())))
    for name in policy.runners:
        keys = served_keys(policy, name, served)
        for key in keys:
            if key not in sizes:
                sizes[key] = len(FROM_ORACLE.encode(KeysChanged((key,)))) - empty + 1  # a comma
        size = sum(sizes[key] for key in keys)
        if size > MAX_KEYS_BYTES:
            largest = max(keys, key=lambda one: sizes[one])
            words = f"expected at most {MAX_KEYS_BYTES} bytes of keys with their distributions, got {size}"
            advice = (
                f"name fewer keys, or combine distributions by patterns; {policy.name_of(largest.facts.fingerprint)}"
            )
            yield Problem(f"runners.{name}.keys", f"{words}: {advice} has {sizes[largest]}")


def _check_rates(path: str, runner: RunnerRule) -> Iterator[Problem]:
    pairs = (
        ("rate", runner.rate, "burst", runner.burst),
        ("token_rate", runner.token_rate, "token_burst", runner.token_burst),
    )
    for rate_name, rate, burst_name, burst in pairs:
        if rate is not None and rate < 1:
            yield Problem(f"{path}.{rate_name}", f"expected 1 or more signatures a second, got {rate}")
        if burst is not None and burst < 1:
            yield Problem(f"{path}.{burst_name}", f"expected 1 or more signatures, got {burst}")
        if burst is not None and rate is None:
            yield Problem(f"{path}.{burst_name}", f"expected {rate_name} beside it")


def _check_name(path: str, name: str) -> Iterator[Problem]:
    try:
        check_name(name, "name")
    except RemoteProtocolError as error:
        yield Problem(path, str(error).removeprefix("name: "))


def _check_pattern(path: str, pattern: str) -> Iterator[Problem]:
    # No brackets: fnmatch knows them, people who write distributions' names do not expect them.
    if _PATTERN.fullmatch(pattern) is None:
        yield Problem(path, f"expected letters, digits, '.', '_', '+', '-', '*' or '?', got {pattern!r}")


def _check_network(path: str, network: str) -> Iterator[Problem]:
    try:
        ipaddress.ip_network(network)
    except ValueError as error:
        yield Problem(path, f"expected a network such as 10.1.0.0/16: {error}")


def _doubles(path: str, values: tuple[str, ...]) -> Iterator[Problem]:
    for index, value in enumerate(values):
        if value in values[:index]:
            yield Problem(f"{path}[{index}]", f"{value} stands twice")
