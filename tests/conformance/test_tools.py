"""Every tool of every release signs with every kind of key exactly as it does with a real gpg-agent, or not at all."""

import pytest

from tests.conformance.release import Release
from tests.conformance.tools import TOOLS, Tool
from tests.conformance.trials import Trials
from tests.conformance.workshop import AGENT, ALGORITHMS, RELAY

pytestmark = pytest.mark.conformance

CASES = [
    pytest.param(release, tool, algorithm, id=f"{release.name}-{tool.name}-{algorithm}")
    for tool in TOOLS
    for release in tool.releases
    for algorithm in ALGORITHMS
]


@pytest.mark.parametrize(("release", "tool", "algorithm"), CASES)
def test_a_tool_signs_by_the_relay_as_by_a_real_agent(
    trials: Trials, release: Release, tool: Tool, algorithm: str
) -> None:
    outcomes = trials.of(release, tool, algorithm)
    assert outcomes[RELAY].is_signed == outcomes[AGENT].is_signed, [outcome.why for outcome in outcomes.values()]


@pytest.mark.parametrize(("release", "tool", "algorithm"), CASES)
def test_a_tool_says_nothing_that_it_does_not_say_with_a_real_agent(
    trials: Trials, release: Release, tool: Tool, algorithm: str
) -> None:
    outcomes = trials.of(release, tool, algorithm)
    assert outcomes[RELAY].lines - outcomes[AGENT].lines == frozenset()
