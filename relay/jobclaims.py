"""What a caller's environment says about its CI job: an allow-list of variables, and PINENTRY_USER_DATA.

gpg passes PINENTRY_USER_DATA on by itself (`OPTION pinentry-user-data=`), so it also works where the relay cannot look:
from inside a container, over ssh. Its format: the word `blind-oracle`, then NAME=VALUE, separated by blanks; in values
%XX stands for a byte. Everything here is claimed by the caller.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import field

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import check_name
from agentproxy.protocol.values import frozen
from relay.cleaning import clean

__all__ = ["WANTED_VARIABLES", "EnvironmentClaims", "claims_of_disttag", "claims_of_environment", "claims_of_hint"]

MAX_VALUE = 256  # characters
_MARK = "blind-oracle"
# Nothing else ever leaves an environment: tokens and passwords stand in it. The first that is there counts.
_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "project": ("CI_PROJECT_PATH", "GITHUB_REPOSITORY", "JOB_NAME"),
    "pipeline": ("CI_PIPELINE_ID", "GITHUB_RUN_ID", "BUILD_NUMBER"),
    "job": ("CI_JOB_ID", "GITHUB_JOB", "BUILD_TAG"),
    "url": ("CI_JOB_URL", "BUILD_URL"),
}
_DISTRIBUTION = "BLIND_ORACLE_DISTRIBUTION"
WANTED_VARIABLES = re.compile(
    rb"\0(%b)=([^\0]*)"
    % "|".join((_DISTRIBUTION, *(name for names in _VARIABLES.values() for name in names))).encode("ascii")
)
_HINTS = frozenset({*_VARIABLES, "file", "package", "distribution"})
_ESCAPED = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_USER_OF_URL = re.compile(r"//[^/]*@")  # up to the last @: a password may hold one
_RELEASE = re.compile(r"\.?([A-Za-z]+[0-9]*)(?![A-Za-z0-9-]).*", re.DOTALL)


@frozen
class EnvironmentClaims:
    """What an environment, or a package, says."""

    job: dict[str, str] = field(default_factory=dict)
    distributions: tuple[str, ...] = ()
    file: str | None = None
    package: str | None = None


def claims_of_environment(variables: Iterable[tuple[str, str]]) -> EnvironmentClaims:
    """The claims in variables that WANTED_VARIABLES has found."""
    found = {name: value for name, value in variables if value}
    job = {
        claim: _value(claim, found[names[0]])
        for claim, candidates in _VARIABLES.items()
        if (names := [name for name in candidates if name in found])
    }
    return EnvironmentClaims(job, _distributions(found.get(_DISTRIBUTION, "")))


def claims_of_hint(hint: str) -> EnvironmentClaims:
    """Read PINENTRY_USER_DATA; other people's use of it is no claim, and what is malformed is left out."""
    mark, _, rest = hint.partition(" ")
    if mark != _MARK:
        return EnvironmentClaims()
    found: dict[str, str] = {}
    for word in rest.split():
        name, equals, value = word.partition("=")
        if equals and value and name in _HINTS:
            found.setdefault(name, _ESCAPED.sub(_unescaped, value))
    job = {claim: _value(claim, found[claim]) for claim in _VARIABLES if claim in found}
    file, package = (clean(found[name], 1024) if name in found else None for name in ("file", "package"))
    return EnvironmentClaims(job, _distributions(found.get("distribution", "")), file, package)


def claims_of_disttag(disttag: str | None) -> tuple[str, ...]:
    """The distribution that %{DISTTAG} of a package names: `.el9_4.alma` is el9, `el10-x86_64` is itself."""
    found = _RELEASE.fullmatch(disttag or "")
    return _distributions(found[1] if found else (disttag or "").removeprefix("."))


def _unescaped(found: re.Match[str]) -> str:
    return bytes.fromhex(found[0].replace("%", "")).decode("utf-8", "replace")


def _value(claim: str, text: str) -> str:
    if claim == "url":
        # People put credentials there.
        text = _USER_OF_URL.sub("//", text).partition("?")[0].partition("#")[0]
    return clean(text, MAX_VALUE)


def _distributions(text: str) -> tuple[str, ...]:
    try:
        check_name(text, "distribution")
    except RemoteProtocolError:
        return ()
    return (text,)
