"""Judges a policy file for people: every mistake and every risk, with its path and its line."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from agentproxy.oracle.policy import Policy
from agentproxy.oracle.policycheck import check
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.fields import KeyFacts
from agentproxy.protocol.values import frozen
from agentproxy.runtime.config import MAX_BYTES, line_numbers, load
from agentproxy.runtime.files import read_beginning

__all__ = ["Finding", "PolicyReport", "judge", "line_of", "lines_in"]


@frozen
class Finding:
    """One mistake, or one risk to know of (`warning`)."""

    path: str  # such as runners.build-01.keys[1]; empty: the file as a whole
    line: int | None
    message: str
    hint: str = ""
    warning: bool = False


@frozen
class PolicyReport:
    """What a policy file says and what is to be said of it."""

    file: Path
    policy: Policy | None  # None: it cannot be read as one
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What keeps an oracle from taking the file."""
        return tuple(finding for finding in self.findings if not finding.warning)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What somebody should look at."""
        return tuple(finding for finding in self.findings if finding.warning)


def judge(file: Path, keys: Iterable[KeyFacts] = ()) -> PolicyReport:
    """Read and check a policy file.

    Args:
        file: it may be missing or wrong: that is a finding, too.
        keys: what the signer serves, if known.
    """
    try:
        policy = load(file, Policy)
    except ConfigError as error:
        return PolicyReport(file, None, tuple(_unreadable(file, error)))
    lines = lines_in(file)
    found = (
        Finding(each.path, line_of(lines, each.path), each.message, warning=each.warning)
        for each in check(policy, keys)
    )
    return PolicyReport(file, policy, tuple(found))


def lines_in(file: Path) -> dict[str, int]:
    """The line of every path in the file; nothing when it cannot be read."""
    try:
        return line_numbers(read_beginning(file, MAX_BYTES).decode("utf-8"))
    except (ConfigError, UnicodeDecodeError):
        return {}


def line_of(lines: Mapping[str, int], path: str) -> int | None:
    """The line of a path, or of the nearest thing around it that stands in the file (a default stands nowhere)."""
    while path:
        if path in lines:
            return lines[path]
        cut = max(path.rfind("."), path.rfind("["))
        path = path[: max(cut, 0)]
    return None


def _unreadable(file: Path, error: ConfigError) -> Iterator[Finding]:
    lines = lines_in(file)
    for text in str(error).splitlines():
        words = text.removeprefix(f"{file}: ")
        path, _, message = words.partition(": ")
        if path.startswith("line ") and path.removeprefix("line ").isdecimal():
            yield Finding("", int(path.removeprefix("line ")), message, error.hint)
        elif message and (line := line_of(lines, path)) is not None:
            yield Finding(path, line, message, error.hint)
        else:
            yield Finding("", None, words, error.hint)
