"""What an operator switched, and how much of its time is left, also after restarts and with clocks that jump.

The time that a switch has is counted by the kernel's clock since boot, which nobody sets; across a reboot by the wall
clock, and one that has gone back ends the switch: the bound is kept rather than the convenience. Not that of `never`,
which lets nobody sign.
"""

import json
import logging
import secrets
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import check_text
from agentproxy.protocol.structure import UNREADABLE, structured
from agentproxy.protocol.unstructure import unstructured
from agentproxy.protocol.values import frozen
from agentproxy.runtime.files import write_atomically
from relay.fallbackmode import FallbackMode

__all__ = ["MAX_SWITCH_SECONDS", "Clock", "HostClock", "Switch", "SwitchKeeper"]

logger = logging.getLogger(__name__)

# A week bridges the longest repair; who needs more says so again, and why.
MAX_SWITCH_SECONDS = 7 * 86_400
_MAX_FILE = 16_384  # bytes
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """The clocks of a host."""

    def now(self) -> datetime:
        """Wall clock; it may jump."""

    def since_boot(self) -> float:
        """Seconds, suspended time included; it never jumps."""

    def boot(self) -> str:
        """Names this boot."""


class HostClock:
    """This host's."""

    def now(self) -> datetime:
        """Wall clock."""
        return datetime.now(UTC)

    def since_boot(self) -> float:
        """CLOCK_BOOTTIME."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def boot(self) -> str:
        """The kernel's random id of this boot; where that is hidden (ProcSubset=pid), each start counts as a boot."""
        try:
            return _BOOT_ID.read_text("ascii").strip()
        except OSError:
            return f"hidden-{secrets.token_hex(16)}"


@frozen
class Switch:
    """One decision of an operator."""

    mode: FallbackMode
    seconds: int  # how long it holds; 0: until the next one (only `never` may)
    reason: str
    by: str  # who, as the kernel told: uid and, if known, the user's name
    since: datetime
    # How much of its time had passed at a moment that three clocks name.
    spent_ms: int = 0
    seen: datetime | None = None
    seen_boot: str = ""
    seen_boot_ms: int = 0

    def __post_init__(self) -> None:
        check_text(self.reason, "reason")
        check_text(self.by, "by", 128)
        is_bounded = 1 <= self.seconds <= MAX_SWITCH_SECONDS
        if not is_bounded and (self.seconds or self.mode is not FallbackMode.NEVER):
            raise RemoteProtocolError(f"for: expected 1 second to {MAX_SWITCH_SECONDS // 86_400} days")


class SwitchKeeper:
    """The switch that holds now, if any.

    Args:
        path: where it is kept; its directory exists when something is switched.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._boot = clock.boot()
        self._switch: Switch | None = None
        self._over: Switch | None = None  # one whose time is over, as the log knows
        # Threads switch and note the time: a note that began before a switch must not end behind it, and outlive it.
        self._pen = threading.Lock()

    def load(self) -> None:
        """Take the switch of the last run, as far as its time is not over; what cannot be read counts as none."""
        try:
            with self._path.open("rb") as file:
                switch = structured(json.loads(file.read(_MAX_FILE)), Switch)
        except FileNotFoundError:
            return
        except (OSError, *UNREADABLE) as error:
            logger.warning("fallback's switch not read, relay.yaml counts, path=%s error=%s", self._path, error)
            return
        spent = self._spent_since(switch)
        if spent is None and switch.mode is FallbackMode.NEVER:
            spent = switch.spent_ms  # rather longer than shorter: without it relay.yaml might let this host sign
        if spent is None:
            logger.warning("the clock went back while the host was down: fallback's switch ends, mode=%s", switch.mode)
        else:
            self._switch = self._marked(replace(switch, spent_ms=spent))
        try:
            self.keep()  # or take its file away, when it has ended
        except OSError as error:
            logger.warning("fallback's time is not noted, error=%s", error)

    def current(self) -> Switch | None:
        """The switch that holds now; None: relay.yaml counts."""
        switch = self._switch
        if switch is None or not switch.seconds or self._spent_ms(switch) < switch.seconds * 1000:
            return switch
        if self._over is not switch:
            self._over = switch
            logger.warning("fallback's switch is over, mode=%s reason=%r", switch.mode, switch.reason)
        # Not forgotten here: a thread may put the next one in its place at any moment.
        following = self._switch
        return None if following is switch else following

    def left(self) -> float | None:
        """Seconds that the switch still holds; None: there is none, or it has no end."""
        switch = self.current()
        if switch is None or not switch.seconds:
            return None
        return max(0.0, switch.seconds - self._spent_ms(switch) / 1000)

    def set(self, mode: FallbackMode, seconds: int, reason: str, by: str) -> Switch:
        """Switch, on disk before it counts. It blocks.

        Raises:
            RemoteProtocolError: more time than may be, or a text that cannot stand in a log.
            OSError: it cannot be kept, so it does not count.
        """
        switch = self._marked(Switch(mode, seconds, reason, by, self._clock.now()))
        with self._pen:
            self._write(switch)
            self._switch = switch
        return switch

    def clear(self) -> None:
        """Let relay.yaml count again. It blocks.

        Raises:
            OSError: the switch cannot be taken away.
        """
        with self._pen:
            self._path.unlink(missing_ok=True)
            self._switch = None

    def keep(self) -> None:
        """Note on disk how much time has passed, for a host that loses its power. It blocks.

        Raises:
            OSError: it cannot be noted; the older note still bounds the switch.
        """
        with self._pen:
            switch = self.current()
            if switch is not None and switch.seconds:
                self._switch = self._marked(replace(switch, spent_ms=self._spent_ms(switch)))
                self._write(self._switch)
            elif switch is None:
                self._path.unlink(missing_ok=True)

    def _write(self, switch: Switch) -> None:
        plain = unstructured(switch)
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomically(self._path, json.dumps(plain, indent=1).encode("ascii"), 0o644)

    def _marked(self, switch: Switch) -> Switch:
        milliseconds = int(self._clock.since_boot() * 1000)
        return replace(switch, seen=self._clock.now(), seen_boot=self._boot, seen_boot_ms=milliseconds)

    def _spent_ms(self, switch: Switch) -> int:
        return switch.spent_ms + int(self._clock.since_boot() * 1000) - switch.seen_boot_ms

    def _spent_since(self, switch: Switch) -> int | None:
        """How much time has passed in all; None: nobody can tell, since the wall clock went back."""
        if switch.seen_boot == self._boot:
            return self._spent_ms(switch)
        if switch.seen is None or (passed := self._clock.now() - switch.seen).total_seconds() < 0:
            return None
        return switch.spent_ms + int(passed.total_seconds() * 1000)
