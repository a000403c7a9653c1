"""Lets each tool sign twice, by a real agent and by the relay, and keeps what came of it."""

from dataclasses import dataclass, field

from tests.conformance.job import Job, NotSignedError
from tests.conformance.release import Release
from tests.conformance.tools import Tool
from tests.conformance.verification import verify
from tests.conformance.workshop import SIDES, Workshop

__all__ = ["Outcome", "Trials"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One tool, one key, one side."""

    is_signed: bool  # and an independent tool believes it
    lines: frozenset[str]  # what the tool said
    why: str = ""  # it is not


@dataclass(slots=True)
class Trials:
    """Each is made once, whoever asks first."""

    shop: Workshop
    _made: dict[tuple[str, str, str], dict[str, Outcome]] = field(default_factory=dict)

    def of(self, release: Release, tool: Tool, algorithm: str) -> dict[str, Outcome]:
        """The outcomes by side."""
        name = (release.name, tool.name, algorithm)
        if name not in self._made:
            self._made[name] = {side: self._try(release, tool, algorithm, side) for side in SIDES}
        return self._made[name]

    def _try(self, release: Release, tool: Tool, algorithm: str, side: str) -> Outcome:
        words = (release.name, tool.name, algorithm, side)
        directory = self.shop.place(*("".join(filter(str.isalnum, word)) for word in words))
        job = Job(self.shop, release, self.shop.home(release, side), self.shop.key(algorithm), directory)
        try:
            signed = tool.sign(job)
            lines = job.lines
            for one in signed:
                verify(job, one)
        except NotSignedError as error:
            return Outcome(is_signed=False, lines=job.lines, why=str(error))
        return Outcome(is_signed=True, lines=lines)
