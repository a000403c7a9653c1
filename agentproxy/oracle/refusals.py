"""Refusals of authenticated callers, on their way into the audit log, in numbers that a flood cannot raise."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from agentproxy.oracle.caller import Caller
from agentproxy.protocol.errors import RefusedError
from agentproxy.protocol.fields import MAX_CLAIM, Asserted
from agentproxy.protocol.relay_messages import Sign
from agentproxy.protocol.seal_messages import Seal
from agentproxy.protocol.signer_requests import Outcome, Record

__all__ = ["Refusals"]

MOST_A_MINUTE = 60  # records of one runner; the rest is counted in one summary
_MINUTE = 60.0  # seconds


class _Recorder(Protocol):
    def next_id(self) -> int: ...

    def record(self, request: Record) -> None: ...


@dataclass(slots=True)
class _Minute:
    caller: Caller
    began: float
    recorded: int = 0
    left_out: int = 0


class Refusals:
    """Records refusals, without waiting for the disk.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, signer: _Recorder, clock: Callable[[], float]) -> None:
        self._signer = signer
        self._clock = clock
        self._minutes: dict[str, _Minute] = {}

    def record(self, caller: Caller, request: Sign | Seal, refusal: RefusedError) -> None:
        """Record one refusal, or count it when this runner already has its records of the minute."""
        if not self._has_room(caller):
            return
        self._signer.record(
            Record(
                self._signer.next_id(),
                operation=request.tag,
                outcome=Outcome.REFUSED,
                reason=_reason(refusal),
                asserted=caller.asserted(request.distribution, request.claims, request.socket),
                request=request.id,
                keygrip=request.keygrip,
                digest=request.digest if isinstance(request, Sign) else None,  # a state is not finished yet
                durable=False,
            )
        )

    def record_keyless(
        self, caller: Caller, request: str, asserted: Asserted, refusal: RefusedError, operation: str = Seal.tag
    ) -> None:
        """As `record`, for what the policy has no key for.

        Args:
            caller: who asked.
            request: its id.
            asserted: what is said of it.
            refusal: why not.
            operation: what was asked.
        """
        if self._has_room(caller):
            self._signer.record(
                Record(
                    self._signer.next_id(),
                    operation,
                    Outcome.REFUSED,
                    _reason(refusal),
                    asserted,
                    request=request,
                    durable=False,
                )
            )

    def _has_room(self, caller: Caller) -> bool:
        """Whether this minute has room for another record; counts it either way."""
        minute = self._minutes.get(caller.runner)
        if minute is None:
            minute = self._minutes[caller.runner] = _Minute(caller, self._clock())
        if minute.recorded >= MOST_A_MINUTE:
            minute.left_out += 1
            return False
        minute.recorded += 1
        return True

    def summarize(self) -> None:
        """Write the summaries of the minutes that are over; called about once a second."""
        now = self._clock()
        for runner, minute in list(self._minutes.items()):
            if now - minute.began < _MINUTE:
                continue
            del self._minutes[runner]
            if minute.left_out:
                self._signer.record(
                    Record(
                        self._signer.next_id(),
                        operation="sign",  # what most of them are: seals and questions for a key are counted with them
                        outcome=Outcome.REFUSED,
                        reason="summary of a minute: further refusals of this runner, whatever it asked for",
                        asserted=minute.caller.asserted(),
                        details={"count": str(minute.left_out)},
                        durable=False,
                    )
                )


def _reason(refusal: RefusedError) -> str:
    return f"{refusal.code}: {refusal}"[:MAX_CLAIM]  # it may name as many keys as a policy has
