"""The way to signatures over documents: one connection to the oracle, many requests in flight, each answer checked.

It uses the relay's configuration and credentials, and needs no running relay and no gpg.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf

import trio

from agentproxy.protocol.codes import FailureCode
from agentproxy.protocol.fields import Claims
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.key_messages import ServedKey
from agentproxy.protocol.oracle_messages import Failed, Refused
from agentproxy.protocol.seal_messages import Sealed
from relay.client import Client
from relay.config import RelayConfig
from relay.credentials import CredentialStore
from relay.dial import Dialer
from relay.errors import UnreachableError
from relay.headkeeping import TendedHeads
from relay.lines import Dial
from relay.sealed.checking import check
from relay.sealed.errors import NotSealedError
from relay.sealed.keychoice import KeyWanted, Undecided, choose
from relay.sealed.renewing import renewable
from relay.sealed.straight import SOFTWARE
from relay.signrequests import SealRequest, new_request_id
from relay.way import HeadKeeper

__all__ = ["Sealer", "open_sealer"]

# After a refusal that a moment's patience cures the oracle says how long; without a word, as long as this.
_PATIENCE_SECONDS = 0.1
_FAILURES = {
    FailureCode.BACKEND: "the oracle's backend gave no signature",
    FailureCode.KEY_UNAVAILABLE: "the signer does not seal with this key",
    FailureCode.BAD_SIGNATURE: "the signer's own check of the signature failed",
    FailureCode.NOT_OPERATIONAL: "the oracle is not operational; its audit log may not be writable",
    FailureCode.INTERNAL: "the oracle failed",
}


class Sealer:
    """Asks for signatures.

    Args:
        config: the relay's.
        dial: opens connections.
        heads: gets each end of an oracle's audit log.
        store: where `dial` finds its credentials, when we may replace them.
    """

    def __init__(self, config: RelayConfig, dial: Dial, heads: HeadKeeper, store: CredentialStore | None) -> None:
        self._client = Client(config.oracles, dial, self.take_keys, heads, store)
        self._deadline_seconds = float(config.deadline_seconds)
        self._keys: tuple[ServedKey, ...] | None = None
        self._keys_known = trio.Event()
        self._last_sealed = -inf  # on trio's clock

    @property
    def keys(self) -> tuple[ServedKey, ...]:
        """What the oracle in use serves to this runner."""
        return self._keys or ()

    async def take_keys(self, keys: tuple[ServedKey, ...]) -> None:
        """The keys from now on (for the client)."""
        self._keys = keys
        self._keys_known.set()
        await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        """Stay connected until cancelled."""
        await self._client.run()

    async def welcome(self, patience_seconds: float | None = None) -> None:
        """Return once an oracle has taken us and told its keys, within the configuration's deadline or what is given.

        Raises:
            UnreachableError: none was there in time.
            RejectedError: none takes this runner.
        """
        patience_seconds = self._deadline_seconds if patience_seconds is None else patience_seconds
        with trio.move_on_after(max(0.0, patience_seconds)):
            await self._client.met()
            await self._keys_known.wait()
        if self._keys is None:
            raise UnreachableError(f"no oracle in reach: {self._client.state.problem}")

    async def choose(self, wanted: KeyWanted) -> ServedKey:
        """The one key that fits; where several are for a distribution, the oracle says which.

        Raises:
            ConfigError: none fits, or more than one.
        """
        chosen = choose(self.keys, wanted)
        return await self._selected(chosen) if isinstance(chosen, Undecided) else chosen

    async def _selected(self, question: Undecided) -> ServedKey:
        answer = await self._client.select_key(question.distribution, question.key_type, self._deadline_seconds)
        if isinstance(answer, Refused):
            raise question.unanswered(answer.reason)
        return answer

    async def seal(
        self, key: ServedKey, state: HashState, distribution: str | None = None, claims: Claims | None = None
    ) -> Sealed:
        """A signature over the document behind `state`; as `ask`."""
        return await self.ask(key, SealRequest(new_request_id(), key.facts.keygrip, state, distribution, claims))

    async def ask(self, key: ServedKey, request: SealRequest, left_seconds: float | None = None) -> Sealed:
        """What is asked for, checked with the public key of the key list.

        Args:
            left_seconds: of the configuration's deadline; None: all of it.

        Where a limit makes us wait, the deadline begins anew with each signature that another of our requests gets.

        Raises:
            NotSealedError: refused or failed, or the answer is not what was asked for.
            UnreachableError, DeadlineError: no oracle in reach, or no answer in time.
            RejectedError: no oracle takes this runner.
        """
        expires = trio.current_time() + (self._deadline_seconds if left_seconds is None else left_seconds)
        while True:
            answer = await self._client.seal(request, expires - trio.current_time())
            if isinstance(answer, Sealed):
                self._last_sealed = trio.current_time()
                check(key, request.state, answer.seal)
                return answer
            if isinstance(answer, Failed):
                raise NotSealedError(_FAILURES[answer.code], answer.code)
            pause = None if answer.retry_after_ms is None else max(answer.retry_after_ms / 1000, _PATIENCE_SECONDS)
            # Of many files under one limit the last would else fail, on an oracle that serves us as fast as it may.
            expires = max(expires, self._last_sealed + self._deadline_seconds)
            if pause is None or trio.current_time() + pause >= expires:
                raise NotSealedError(answer.reason, answer.code)
            await trio.sleep(pause)


@asynccontextmanager
async def open_sealer(config: RelayConfig, patience_seconds: float | None = None) -> AsyncIterator[Sealer]:
    """Connect to the oracle that relay.yaml names, and stay connected for as long as the block lasts.

    Args:
        config: the relay's.
        patience_seconds: how long to wait for an oracle; None: the configuration's deadline.

    Raises:
        ConfigError: the credentials cannot be read.
        UnreachableError: no oracle was there in time.
        RejectedError: no oracle takes this runner.
    """
    heads = TendedHeads(config.state / "heads.json")
    heads.load()
    dialer = Dialer(config, heads.all, SOFTWARE)
    dialer.prepare()  # what is wrong with the credentials shall show at once, not after a deadline
    failure: Exception | None = None
    with renewable(config) as store:
        sealer = Sealer(config, dialer, heads, store)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sealer.run)
            nursery.start_soon(heads.keep)
            try:
                await sealer.welcome(patience_seconds)
                yield sealer
            except Exception as error:  # noqa: BLE001  carried past the nursery, which would wrap it into a group
                failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
