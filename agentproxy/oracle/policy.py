"""What the policy file says, and the decision that follows from it: values in, a decision out.

A decision names the line of the file that made it, as a path such as `runners.build-01.keys[1]`. Loading is
`agentproxy.runtime.config`'s business, finding mistakes `agentproxy.oracle.policycheck`'s.
"""

import enum
import fnmatch
import re
from collections.abc import Iterable, Iterator
from dataclasses import field

from agentproxy.oracle.caller import Caller
from agentproxy.protocol.codes import RefusalCode
from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.fields import KeyFacts
from agentproxy.protocol.key_messages import ServedKey
from agentproxy.protocol.keys import Curve, EccPublicKey, Fingerprint, PublicKey
from agentproxy.protocol.values import frozen

__all__ = [
    "DEFAULT_HASH_ALGORITHMS",
    "Allow",
    "Decision",
    "Deny",
    "KeyRule",
    "Policy",
    "Priority",
    "Question",
    "RunnerRule",
    "decide",
    "explain",
    "header_mismatch",
    "matches",
    "matches_claim",
    "mismatch",
    "served_keys",
]

DEFAULT_HASH_ALGORITHMS = (HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512)


class Priority(enum.Enum):
    """Classes of turns at the signer; each overtakes the ones after it."""

    URGENT = "urgent"  # repository metadata, security updates
    NORMAL = "normal"
    BULK = "bulk"  # mass rebuilds


@frozen
class KeyRule:
    """One entry of `keys`."""

    fingerprint: Fingerprint
    type: str  # "modern", "legacy" or another name
    distributions: tuple[str, ...] = ()  # patterns such as el10-*; empty: for any, and none need be named
    hash_algorithms: tuple[HashAlgorithm, ...] = DEFAULT_HASH_ALGORITHMS


@frozen
class RunnerRule:
    """One entry of `runners`."""

    keys: tuple[str, ...]  # names from `keys`
    distributions: tuple[str, ...] = ()  # patterns; empty: whatever its keys are for
    rate: int | None = None  # signatures a second, all tokens of the runner together; None: not limited
    burst: int | None = None  # signatures at once; None: as many as in two seconds of `rate`
    token_rate: int | None = None  # the same for each token of the runner
    token_burst: int | None = None
    priority: Priority = Priority.NORMAL
    networks: tuple[str, ...] = ()  # CIDR; empty: from anywhere
    token_only: bool = False  # may come without a client certificate (HTTP)
    fallback: bool = False  # may sign with a key of its own while no oracle can, and report that


@frozen
class Policy:
    """The whole file."""

    keys: dict[str, KeyRule]
    runners: dict[str, RunnerRule]
    _names: dict[Fingerprint, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_names", {rule.fingerprint: name for name, rule in self.keys.items()})

    def name_of(self, fingerprint: Fingerprint) -> str | None:
        """The policy's name of a key; None: the policy does not speak of it."""
        return self._names.get(fingerprint)


@frozen
class Question:
    """What somebody wants to do with a key."""

    hash_algorithm: HashAlgorithm
    distribution: str | None = None
    # Taken from a package or an environment, so anybody's word: each can turn Allow into Deny, never the reverse.
    claimed_distributions: tuple[str, ...] = ()
    seal: bool = False  # the signer itself finishes the hash, so it cannot be a certification


@frozen
class Allow:
    """Yes, by this line."""

    rule: str
    key: str  # the policy's name of it
    runner: RunnerRule


@frozen
class Deny:
    """No. The reason names the line, and nothing that the runner may not know."""

    code: RefusalCode
    reason: str  # a path in the file, a colon, and words

    @property
    def rule(self) -> str:
        """The path of the line that says no."""
        return self.reason.partition(": ")[0]


Decision = Allow | Deny

# What a caller gave a tool may be in the request as a claim, and claims can only refuse.
_UNNAMED = (
    "the request names no distribution; `distribution` in relay.yaml, of the socket or the whole relay, does, "
    "or --distribution of blind-oracle-sign"
)

# What each kind of key cannot be for. EL7 has rpm 4.11, EL8 4.14, EL9 4.16: none of them verifies elliptic curves, and
# rpm finds that out only after it got its signature. EL10's rpm reads keys by Sequoia, which knows no Ed448 key of
# GnuPG's, and its crypto policies no longer accept what legacy keys are made with.
_EL = re.compile(r"(?:el|rhel|centos|epel|almalinux|rocky|ol)-?(\d+)(?![\d*?])")
_LAST_EL_WITHOUT_ECC = 9
_FIRST_EL_WITHOUT_LEGACY = 10
_LEGACY = "legacy"
_RELEASE = re.compile(r"([A-Za-z]+)-?([0-9]+)")


def mismatch(rule: KeyRule, public_key: PublicKey | None, distribution: str) -> str:
    """Why a key cannot serve a distribution, or every one of a pattern; empty when it can."""
    found = _EL.match(distribution)
    if found is None:
        return ""
    release = int(found.group(1))
    if rule.type == _LEGACY and release >= _FIRST_EL_WITHOUT_LEGACY:
        return f"a legacy key is not for EL{release}"
    if public_key is not None and public_key.algorithm == "ecc" and release <= _LAST_EL_WITHOUT_ECC:
        return f"EL{release}'s rpm verifies no elliptic-curve signatures"
    return "" if public_key is None else header_mismatch(public_key)


def header_mismatch(public_key: PublicKey) -> str:
    """Why no RPM's header can be signed with a key, whatever the distribution; empty when it can.

    A digest does not show what it is of, so only those who say so are kept from it. Debian 13's rpm, 4.20, crashes on
    such a header.
    """
    is_ed448 = isinstance(public_key, EccPublicKey) and public_key.curve is Curve.ED448
    return "no rpm verifies a header that an Ed448 key has signed" if is_ed448 else ""


def decide(policy: Policy, caller: Caller, question: Question, facts: KeyFacts | None) -> Decision:
    """Whether this caller may have that signature.

    Args:
        facts: the key that the signer serves under the asked keygrip; None when it serves no such key.
    """
    runner = policy.runners.get(caller.runner)
    if runner is None:
        return Deny(RefusalCode.FORBIDDEN, f"runners: no {caller.runner}")
    name = None if facts is None else policy.name_of(facts.fingerprint)
    if facts is None or name is None:
        return Deny(RefusalCode.KEY_UNKNOWN, "keys: no such key")
    if name not in runner.keys:
        return Deny(RefusalCode.FORBIDDEN, f"runners.{caller.runner}.keys: {name} is not among them")
    rule = policy.keys[name]
    denied = next(_objections(caller.runner, runner, name, rule, question, facts), None)
    return denied or Allow(f"runners.{caller.runner}.keys[{runner.keys.index(name)}]", name, runner)


def _objections(  # noqa: PLR0913, PLR0917  both rules with their names, the question, and the key
    caller: str, runner: RunnerRule, name: str, rule: KeyRule, question: Question, facts: KeyFacts
) -> Iterator[Deny]:
    if facts.seal_only and not question.seal:
        yield Deny(RefusalCode.FORBIDDEN, f"keys.{name}: seal only, it signs no digests")
    algorithm = question.hash_algorithm
    if algorithm not in rule.hash_algorithms:
        yield Deny(RefusalCode.HASH_FORBIDDEN, f"keys.{name}.hash_algorithms: no {algorithm.name.lower()}")
    restricted = bool(rule.distributions or runner.distributions)
    if restricted and question.distribution is None:
        where = f"keys.{name}" if rule.distributions else f"runners.{caller}"
        yield Deny(RefusalCode.DISTRIBUTION_MISSING, f"{where}.distributions: {_UNNAMED}")
    asked = () if question.distribution is None else (question.distribution,)
    for distribution in (*asked, *question.claimed_distributions):
        fits = matches if distribution in asked else matches_claim
        if not fits(rule.distributions, distribution):
            yield _wrong_distribution(f"keys.{name}.distributions: no pattern for {distribution}")
        if not fits(runner.distributions, distribution):
            yield _wrong_distribution(f"runners.{caller}.distributions: no pattern for {distribution}")
        if reason := mismatch(rule, facts.public_key, distribution):
            yield _wrong_distribution(f"keys.{name}: {reason}")
    for claimed in question.claimed_distributions:
        if question.distribution is not None and contradicts(question.distribution, claimed):
            reason = f"what is signed says {claimed}, and is to be signed for {question.distribution}"
            yield _wrong_distribution(f"runners.{caller}: {reason}")


def _wrong_distribution(reason: str) -> Deny:
    return Deny(RefusalCode.DISTRIBUTION_FORBIDDEN, reason)


def matches(patterns: tuple[str, ...], distribution: str) -> bool:
    """Whether a distribution fits one of the patterns; without patterns every one does."""
    return not patterns or any(fnmatch.fnmatchcase(distribution, pattern) for pattern in patterns)


def matches_claim(patterns: tuple[str, ...], claimed: str) -> bool:
    """As `matches`, for what a package says of itself: `el10`, without an architecture, also fits `el10-x86_64`."""
    if "-" in claimed:
        return matches(patterns, claimed)
    return matches(patterns, claimed) or matches(tuple(pattern.partition("-")[0] for pattern in patterns), claimed)


def contradicts(distribution: str, claimed: str) -> bool:
    """Whether what a package says of itself is another release than the one that it is signed for.

    Only releases of one family are compared, as el9 and el10-x86_64 are: fc41 and fedora-41 may be the same.
    """
    one, other = _RELEASE.match(distribution), _RELEASE.match(claimed)
    return one is not None and other is not None and one[1] == other[1] and one[2] != other[2]


def explain(
    policy: Policy, caller: Caller, key: str, question: Question, facts: KeyFacts | None
) -> Allow | tuple[Deny, ...]:
    """The decision with every objection rather than the first.

    Args:
        policy: what people wrote.
        caller: who would ask.
        key: the policy's name of it, also when the signer does not serve it.
        question: what would be asked.
        facts: as for `decide`.
    """
    decision = decide(policy, caller, question, facts)
    if isinstance(decision, Allow):
        return decision
    runner, rule = policy.runners.get(caller.runner), policy.keys.get(key)
    if facts is None or runner is None or rule is None or key not in runner.keys:
        return (decision,)
    return tuple(_objections(caller.runner, runner, key, rule, question, facts))


def served_keys(policy: Policy, runner: str, served: Iterable[KeyFacts]) -> tuple[ServedKey, ...]:
    """The keys that this runner may use, in the policy's order, so that a relay's list is stable."""
    rule = policy.runners.get(runner)
    if rule is None:
        return ()
    facts = {key.fingerprint: key for key in served}
    rules = ((policy.keys[name], facts.get(policy.keys[name].fingerprint)) for name in rule.keys if name in policy.keys)
    return tuple(ServedKey(key, entry.type, entry.distributions) for entry, key in rules if key is not None)
