"""Names the key for a distribution: values in, a name or a refusal out."""

import fnmatch
from collections.abc import Collection, Iterable

from agentproxy.oracle.policy import Deny, KeyRule, Policy, matches, mismatch
from agentproxy.protocol.codes import RefusalCode
from agentproxy.protocol.fields import KeyFacts

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
    return _best(_ranks(wanted, distribution, served), distribution, key_type)


def _ranks(rules: dict[str, KeyRule], distribution: str | None, served: Iterable[KeyFacts] | None) -> dict[str, int]:
    facts = None if served is None else {key.fingerprint: key for key in served}
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


def _best(ranks: dict[str, int], distribution: str | None, key_type: str | None) -> str | Deny:
    what = "no distribution" if distribution is None else distribution
    best = [name for name, rank in ranks.items() if rank == max(ranks.values())]
    if not best:
        of_type = "" if key_type is None else f" of type {key_type}"
        return Deny(RefusalCode.KEY_UNKNOWN, f"keys: none for {what}{of_type}")
    if len(best) > 1:
        missing = "a type" if key_type is None else "a distribution"
        # Guessing would sign a distribution's packages with whatever key stands first.
        return Deny(RefusalCode.FORBIDDEN, f"keys: {' and '.join(best)} fit {what} equally well; name {missing}")
    return best[0]


def _exactness(patterns: tuple[str, ...], distribution: str) -> int:
    """How many characters of the best pattern are literal; 0: any distribution will do; -1: none fits."""
    if not patterns:
        return 0
    fitting = [pattern for pattern in patterns if fnmatch.fnmatchcase(distribution, pattern)]
    return max((1 + len(pattern) - sum(map(pattern.count, "*?")) for pattern in fitting), default=-1)
