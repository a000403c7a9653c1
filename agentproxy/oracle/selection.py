"""Names the key for a distribution: values in, a name or a refusal out."""

import fnmatch
from collections.abc import Collection, Iterable, Mapping

from agentproxy.oracle.policy import Deny, KeyRule, Policy, matches, mismatch
from agentproxy.protocol.codes import RefusalCode
from agentproxy.protocol.fields import KeyFacts
from agentproxy.protocol.keys import Fingerprint

__all__ = ["select_key"]


def select_key(
    policy: Policy,
    distribution: str | None,
    key_type: str | None = None,
    *,
    runner: str | None = None,
    served: Iterable[KeyFacts] | None = None,
) -> str | Deny:
    """The policy's name of the key for a distribution: the one with the most exact pattern.

    Of several that are subkeys of one certificate it is the newest, as gpg takes it: both are served while one replaces
    the other.

    Args:
        policy: what people wrote.
        distribution: such as el10-x86_64; None: only the type decides, and whether the key may be used without one is
            for the decision behind this.
        key_type: only keys of this type; None: of any.
        runner: only what this runner may use; None: any key.
        served: only what the signer serves; None: as if it served all, with algorithms that fit.
    """
    names: Collection[str] = policy.keys
    if runner is not None:
        rule = policy.runners.get(runner)
        if rule is None:
            return Deny(RefusalCode.FORBIDDEN, f"runners: no {runner}")
        if distribution is not None and not matches(rule.distributions, distribution):
            reason = f"runners.{runner}.distributions: no pattern for {distribution}"
            return Deny(RefusalCode.DISTRIBUTION_FORBIDDEN, reason)
        names = rule.keys
    wanted = {name: rule for name, rule in policy.keys.items() if name in names and key_type in {None, rule.type}}
    facts = None if served is None else {key.fingerprint: key for key in served}
    ranks = _ranks(wanted, distribution, facts)
    best = [name for name, rank in ranks.items() if rank == max(ranks.values())]
    if len(best) > 1 and facts is not None:
        best = _newest(best, policy, facts)
    return best[0] if len(best) == 1 else _undecided({name: wanted[name] for name in best}, distribution, key_type)


def _newest(names: list[str], policy: Policy, facts: Mapping[Fingerprint, KeyFacts]) -> list[str]:
    """The one whose key was made last, when all are of one type and one certificate."""
    keys = {name: facts[policy.keys[name].fingerprint] for name in names}
    if len({(policy.keys[name].type, key.primary) for name, key in keys.items()}) > 1:
        return names
    return [max(names, key=lambda name: keys[name].created)]


def _ranks(
    rules: dict[str, KeyRule], distribution: str | None, facts: Mapping[Fingerprint, KeyFacts] | None
) -> dict[str, int]:
    ranks: dict[str, int] = {}
    for name, rule in rules.items():
        key = None if facts is None else facts.get(rule.fingerprint)
        if facts is not None and key is None:
            continue
        if distribution is None:
            ranks[name] = 0
            continue
        rank = _exactness(rule.distributions, distribution)
        if rank >= 0 and not mismatch(rule, None if key is None else key.public_key, distribution):
            ranks[name] = rank
    return ranks


def _undecided(best: dict[str, KeyRule], distribution: str | None, key_type: str | None) -> Deny:
    """Of none, or of several: to guess would sign a distribution's packages with whatever key stands first."""
    of_type = "" if key_type is None else f" of type {key_type}"
    if not best:
        what = "" if distribution is None else f" for {distribution}"
        return Deny(RefusalCode.KEY_UNKNOWN, f"keys: none{what}{of_type}")
    types = {rule.type for rule in best.values()}
    helps = (("distribution", distribution is None), ("type", len(types) > 1))  # of one type, its name says no more
    missing = [word for word, would in helps if would]
    way = f"name a {' or a '.join(missing)}" if missing else "the policy's distributions must tell them apart"
    fit = "fit" if distribution is None else f"fit {distribution}"
    return Deny(RefusalCode.FORBIDDEN, f"keys: {' and '.join(best)}{of_type} {fit} equally well; {way}")


def _exactness(patterns: tuple[str, ...], distribution: str) -> int:
    """How many characters of the best pattern are literal; 0: any distribution will do; -1: none fits."""
    if not patterns:
        return 0
    fitting = [pattern for pattern in patterns if fnmatch.fnmatchcase(distribution, pattern)]
    return max((1 + len(pattern) - sum(map(pattern.count, "*?")) for pattern in fitting), default=-1)
