"""docs/CONFORMANCE.md, as it follows from what was seen."""

import re
from collections.abc import Iterator

from tests.conformance.dangers import DANGERS
from tests.conformance.release import RELEASES, Release
from tests.conformance.tools import TOOLS, Tool
from tests.conformance.trials import Outcome, Trials
from tests.conformance.workshop import AGENT, ALGORITHMS, RELAY

__all__ = ["document", "without_patch_levels"]

_INTRODUCTION = """\
# What signs with what

Written by `make test-conformance`, which runs the unmodified tools of two Debian releases against a real oracle,
signer and relay; it fails when a run shows something else than this page.

**yes**: the tool signs through the relay, and somebody else believes the signature: Sequoia's `sqv`, or for
packages both the release's own rpm and the rpm of Debian 13. While it signs the tool says nothing that it does not
say with a real gpg-agent that holds the same keys. **no**: the tool cannot use such a key, and cannot with a real
gpg-agent either.
"""
_NOTES = """\
Not in the table: Ed448. GnuPG makes such keys since 2.4, with `--compliance=gnupg`, and in a form of its own
(version 5) that neither gpg 2.2 nor Sequoia reads, and so no rpm. Where the oracle's host and the build server both
have gpg 2.4 it signs, and gpg 2.4 verifies; it also verifies what the signer writes whole, for `blind-oracle-sign
detached` and over HTTP: `tests/conformance/test_ed448.py`. Debian 12 has an `sq` that signs with key files only, and
no `gpg-sq`.

`rpmsign` of Debian 12 with an elliptic-curve key of NIST asks for a signature, cannot parse it, and ends with
`Unsupported PGP signature`: it costs a signature and a record. docs/SIGNING_STRATEGY.md says which key is for whom.
"""
_DANGERS = """\
## What fails, and how it should

Each of these was tried in each release. It ends at once and without a crash, no secret key comes out or in, no
certificate changes, nothing is signed, and the relay goes on signing. The same holds for everything else that
gpg-agent can and a relay cannot, sent by `gpg-connect-agent`, from `GENKEY` to `SCD`. While the relay is away no
tool puts a gpg-agent of its own in its place.
"""
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)+")
_PATCH_LEVEL = re.compile(r"\b([0-9]+\.[0-9]+)\.[0-9.]+\b")


def document(trials: Trials) -> str:
    """The whole page."""
    parts = [_INTRODUCTION, *("\n".join(_table(trials, release)) for release in RELEASES), _NOTES, _DANGERS]
    return "\n".join([*parts, "\n".join(_danger_rows()), ""])


def without_patch_levels(page: str) -> str:
    """For comparison: a security update of Debian, which changes no tool's ways, shall not make the page stale."""
    return _PATCH_LEVEL.sub(r"\1", page)


def _table(trials: Trials, release: Release) -> Iterator[str]:
    yield f"## {release.name}\n"
    yield "| " + " | ".join(["Tool", "Version", *ALGORITHMS.values()]) + " |"
    yield "|---|---|" + "---|" * len(ALGORITHMS)
    for tool in TOOLS:
        if release in tool.releases:
            cells = [_cell(trials.of(release, tool, algorithm)) for algorithm in ALGORITHMS]
            yield "| " + " | ".join([f"`{tool.name}`", _version(trials, release, tool), *cells]) + " |"
    yield ""


def _cell(outcomes: dict[str, Outcome]) -> str:
    match outcomes[RELAY].is_signed, outcomes[AGENT].is_signed:
        case True, True:
            return "yes"
        case False, False:
            return "no"
    return "**differs**"


def _version(trials: Trials, release: Release, tool: Tool) -> str:
    done = release.run(*tool.version, home=trials.shop.directory, at=trials.shop.directory)
    found = _NUMBER.search(done.stdout + done.stderr)
    assert found is not None, done
    return found[0]


def _danger_rows() -> Iterator[str]:
    yield "| Command | " + " | ".join(release.name for release in RELEASES) + " |"
    yield "|---|" + "---|" * len(RELEASES)
    for what, danger in DANGERS.items():
        cells = ["fails cleanly" if release in danger.releases else "" for release in RELEASES]
        yield f"| `{what}` | " + " | ".join(cells) + " |"
