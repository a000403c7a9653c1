"""Whether this host signs by itself now, and with what: mode, permission, keys, journal, all at one place.

Everything that counts is looked at when a connection of gpg begins, and holds until it ends: gpg fixes the key before
it asks for a signature.
"""

import functools
import logging
from datetime import UTC, datetime
from typing import NoReturn

import trio

from agentproxy.protocol.errors import BackendError, ConfigError, RemoteProtocolError
from agentproxy.protocol.journal import JournalOperation
from relay.client import Client
from relay.config import RelayConfig
from relay.delivery import Delivery
from relay.door import Door
from relay.draft import Draft
from relay.fallbackkeys import FallbackKeys
from relay.fallbackmode import FallbackMode, FallbackPlaces
from relay.fallbackreport import FallbackKeyReport, FallbackReport, JournalReport
from relay.fallbackrule import FallbackRule
from relay.fallbackswitch import HostClock, Switch, SwitchKeeper
from relay.journal import Journal
from relay.journalchain import JournalDamagedError, JournalUnavailableError
from relay.keylist import KeyList
from relay.localagent import LocalAgent
from relay.localsigning import MOST_AT_ONCE, LocalSigning, Parts
from relay.outage import Outage
from relay.permission import Permission
from relay.requestlog import RequestLog
from relay.signrequests import new_request_id
from relay.verify import Verifier

__all__ = ["Fallback"]

logger = logging.getLogger(__name__)

# How soon the log says that fallback became active or ended, and how much of a switch's time a power cut can give back.
TICK_SECONDS = 1.0
KEEP_SECONDS = 60.0


class Fallback:
    """The host's own signing.

    Args:
        config: read from relay.yaml.
        client: knows since when no oracle has been there, and delivers the journal.
        keys: what oracles serve.
        permission: what an oracle allows.
    """

    def __init__(
        self, config: RelayConfig, client: Client, keys: KeyList, permission: Permission, log: RequestLog
    ) -> None:
        self._config = config
        self._client = client
        self._oracles_keys = keys
        self._permission = permission
        self.places = FallbackPlaces.of(config.state, config.fallback)
        clock = HostClock()
        self._switch = SwitchKeeper(self.places.switch, clock)
        self._outage = Outage(self.places.outage, clock)
        fallback_keys = FallbackKeys(self.places.keys)
        self._rule = FallbackRule(config, client, keys, permission, fallback_keys, self._switch, self._outage)
        journal, pen = Journal(self.places.journal), trio.Lock()
        self._delivery = Delivery(journal, pen, client)
        self._parts = Parts(
            LocalAgent(self.places.home),
            journal,
            pen,
            trio.CapacityLimiter(MOST_AT_ONCE),
            log,
            self._delivery.wake,
            float(config.deadline_seconds),
            Verifier(),
        )
        self._told = ""  # what the log was told last
        self._foreign: tuple[str, ...] = ()  # oracle's keys that lie in the home, as found at the last look

    def load(self) -> None:
        """Take what the last run left: the switch, and the journal, which may have to be recovered. It blocks."""
        self._switch.load()
        self._outage.load()
        if self.places.journal.exists():
            try:
                self._parts.journal.open()
            except JournalUnavailableError as error:
                logger.error("no local signatures: the journal cannot be used: %s", error)  # noqa: TRY400  no bug

    def has_duties(self) -> bool:
        """Whether records wait for an oracle, or the time until fallback is being counted."""
        counts = self._rule.mode()[0] is FallbackMode.AUTO and self._client.unreachable_since is not None
        return counts or self._parts.journal.undelivered > 0

    def close(self) -> None:
        """Release the journal; nobody signs any more."""
        self._parts.journal.close()

    async def run(self) -> NoReturn:
        """Deliver the journal and tell the log of each change, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._delivery.run)
            nursery.start_soon(self._keep)
            was_away = True
            while True:
                is_away = self._client.unreachable_since is not None
                if was_away and not is_away:
                    self._delivery.wake()
                was_away = is_away
                await self._note_outage()
                await self._tell()
                await trio.sleep(TICK_SECONDS)

    async def _note_outage(self) -> None:
        since = self._client.unreachable_since
        counts = self._permission.answered is None and self._rule.mode()[0] is FallbackMode.AUTO
        own = trio.current_time() - since if since is not None and counts else None
        try:
            if self._outage.is_news(own):
                await trio.to_thread.run_sync(self._make_directory)
                await trio.to_thread.run_sync(self._outage.note, own)
        except OSError as error:
            logger.warning("the outage's beginning is not kept, error=%s", error)

    def way(self, door: Door) -> LocalSigning | None:
        """How a connection that begins now gets its signatures here; None: from an oracle.

        A socket that shows certain keys only shows one of these when it names it, too.
        """
        if self._rule.why_not():
            return None
        good, _ = self._rule.usable()
        mode, reason = self._rule.mode()
        shown = {key.keygrip: key for key in good if not door.keys or key.name in door.keys}
        objection = functools.partial(self._rule.objection, trio.current_time())
        return LocalSigning(self._parts, shown, mode, reason, objection) if shown else None

    @property
    def is_active(self) -> bool:
        """Whether connections that begin now are served here."""
        return not self._rule.why_not()

    async def switch(self, mode: FallbackMode | None, seconds: int, reason: str, by: str) -> None:
        """Do what an operator says; it counts for connections from now on, and is in the journal.

        Args:
            mode: None lets relay.yaml count again.

        Raises:
            ConfigError: it cannot be done, or would have no effect.
        """
        if mode is not None and mode is not FallbackMode.NEVER:
            if problem := self._rule.forbidden():
                raise ConfigError(problem, "the oracle decides: forced has no power against it")
            await self._look_into_home()
        try:
            Switch(mode or FallbackMode.NEVER, seconds, reason, by, datetime.now(UTC))  # its own bounds, first of all
            await trio.to_thread.run_sync(self._make_directory)
            await self._set(mode, seconds, reason, by)
        except JournalDamagedError as error:
            hint = f"read {self.places.journal} and delivered.json beside it, then move both away together"
            raise ConfigError(f"not switched: {error}", hint) from error
        except (OSError, RemoteProtocolError, JournalUnavailableError) as error:
            raise ConfigError(f"not switched: {error}") from error
        await self._tell()

    async def _set(self, mode: FallbackMode | None, seconds: int, reason: str, by: str) -> None:
        # The journal first: a mode that somebody signs in without a record of who began it must not be. Turning it
        # off works without the journal: a full disk is no reason to go on.
        what = self._config.fallback.mode if mode is None else mode
        words = f"{reason} (by {by}, for {seconds} s)" if seconds else f"{reason} (by {by})"
        draft = Draft(JournalOperation.SWITCH, new_request_id(), mode=what.value, reason=words[:1024])
        async with self._parts.pen:
            try:
                await trio.to_thread.run_sync(self._parts.journal.append, draft)
            except JournalUnavailableError:
                if what is not FallbackMode.NEVER:
                    raise
                logger.warning("switched off without a record: the journal cannot be written")
            # Under the same lock: of two switches at once, the one that is recorded last is the one in force.
            if mode is None:
                await trio.to_thread.run_sync(self._switch.clear)
            else:
                await trio.to_thread.run_sync(self._switch.set, mode, seconds, reason, by)
        logger.warning("fallback switched, mode=%s seconds=%d by=%s reason=%r", what.value, seconds, by, reason)
        self._delivery.wake()

    def _make_directory(self) -> None:
        self.places.directory.mkdir(mode=0o700, exist_ok=True)

    async def _look_again(self) -> None:
        try:
            await self._look_into_home()
        except ConfigError as error:
            logger.error("fallback is active and does not work: %s", error)  # noqa: TRY400  no bug

    async def _look_into_home(self) -> None:
        """Find keys that should not lie in the local agent's home, and refuse a home that does not answer.

        Raises:
            ConfigError: the agent cannot be asked.
        """
        good, _ = self._rule.usable()
        if not good:
            raise ConfigError(self._no_key(), "blind-oracle-relay fallback setup")
        try:
            there = await self._parts.agent.keygrips()
        except BackendError as error:
            raise ConfigError(str(error)) from error
        missing = [str(key.fingerprint) for key in good if key.keygrip not in there]
        if missing:
            raise ConfigError(f"the local agent does not have {', '.join(missing)}")
        accepted = self._config.fallback.accept_oracle_keys
        oracles = [key.facts for key in self._oracles_keys.served if key.facts.fingerprint not in accepted]
        self._foreign = tuple(str(key.fingerprint) for key in oracles if key.keygrip in there)
        for fingerprint in self._foreign:
            logger.error("an oracle's key lies in the fallback's home, and is not used, key=%s", fingerprint)

    def _no_key(self) -> str:
        return "; ".join(["no key to sign with", *self._rule.usable()[1]])

    async def _tell(self) -> None:
        """Say in the log when fallback becomes active or ends."""
        await trio.lowlevel.checkpoint()
        mode, reason = self._rule.mode()
        now = "" if self._rule.why_not() else f"ACTIVE, mode={mode.value} reason={reason!r}"
        if now and now != self._told:
            logger.warning("fallback is %s: this host signs with its own key", now)
            await self._look_again()
        elif self._told and not now:
            logger.warning("fallback is over: %s", self._rule.why_not())
        self._told = now

    async def _keep(self) -> None:
        while True:
            await trio.sleep(KEEP_SECONDS)
            try:
                await trio.to_thread.run_sync(self._switch.keep)
            except OSError as error:
                logger.warning("fallback's time is not noted, error=%s", error)

    def report(self) -> FallbackReport:
        """For `status`."""
        why_not = self._rule.why_not()
        mode, reason = self._rule.mode()
        switch = self._switch.current()
        left = self._switch.left()
        good, refused = self._rule.usable()
        journal, verdict = self._parts.journal, self._permission.verdict
        return FallbackReport(
            mode=mode.value,
            active=not why_not,
            why_not=why_not,
            reason=reason,
            allowed=verdict.allowed,
            allowed_by=verdict.by,
            switched_by=switch.by if switch else "",
            switched=switch.since if switch else None,
            seconds_left=None if left is None else round(left),
            keys=tuple(FallbackKeyReport(key.name, key.fingerprint, key.user_id, key.expires) for key in good),
            refused=(*refused, *(f"{key}: an oracle's key lies in the home" for key in self._foreign)),
            journal=JournalReport(
                journal.end.journal,
                journal.end.sequence,
                journal.undelivered,
                journal.trouble or self._delivery.trouble,
            ),
        )
