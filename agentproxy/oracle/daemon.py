"""The oracle's process: puts the parts together, reloads the policy, and leaves in good order."""

import logging
import signal
import ssl
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import trio

from agentproxy.oracle import expiries
from agentproxy.oracle.attachments import Attachments
from agentproxy.oracle.bootstraps import BootstrapReuse
from agentproxy.oracle.caller import Caller
from agentproxy.oracle.config import OracleConfig, TlsConfig
from agentproxy.oracle.doors import Doors, Way
from agentproxy.oracle.fallbackrecords import FallbackRecords
from agentproxy.oracle.issuing import Issuer
from agentproxy.oracle.keptheads import KeptHeads
from agentproxy.oracle.ledger import Ledger
from agentproxy.oracle.policyfile import Remarks, load_policy, require_sound
from agentproxy.oracle.ports import bound_address, open_ports
from agentproxy.oracle.reception import Reception
from agentproxy.oracle.registry import Registry, RegistryError
from agentproxy.oracle.registryview import RegistryView
from agentproxy.oracle.sidedoors import SideDoors
from agentproxy.oracle.signerlink import SignerError, SignerLink
from agentproxy.oracle.signerprocess import SignerProcess
from agentproxy.oracle.signing import SigningService
from agentproxy.protocol.errors import BackendError, ConfigError
from agentproxy.protocol.signer_answers import Keys
from agentproxy.runtime import logs, systemd
from agentproxy.runtime.config import load
from agentproxy.runtime.files import write_atomically
from agentproxy.runtime.lockfile import held
from agentproxy.runtime.openfiles import room_for
from agentproxy.runtime.reloads import Reloads
from agentproxy.runtime.secretfiles import read_secret, secret_path
from agentproxy.runtime.serve import keep_what_is_loaded, serve_until_stopped
from agentproxy.runtime.tlscontext import server_context
from agentproxy.runtime.wakefulness import Wakefulness

__all__ = ["Oracle", "run"]

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 10.0  # an RSA-4096 signature takes 10 ms; a relay that does not leave is cut off
SWEEP_SECONDS = 1.0
# So long we wait at start for the signer's keys, which the check of the policy wants. Without them we serve all the
# same: relays then hear "not operational" rather than nothing.
SIGNER_START_SECONDS = 5.0


def run(config_path: Path, log_level: str = "INFO") -> None:
    """Serve until SIGTERM or SIGINT, with a log on standard error.

    Raises:
        ConfigError: something that the operator wrote is wrong.
    """
    logs.configure(log_level)
    # Until `serve_until_stopped` attends to it: somebody who asks for a reload must not end what is just starting.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    config = load(config_path, OracleConfig)
    oracle = Oracle(config)
    keep_what_is_loaded()
    trio.run(oracle.run)


def _context(tls: TlsConfig) -> ssl.SSLContext:
    read_secret(tls.key)  # OpenSSL itself would load a key that everybody can read
    return server_context(tls.certificate, secret_path(tls.key), tls.authority)


class Oracle:
    """One oracle, from its configuration to its last connection.

    Raises:
        ConfigError: a file that the configuration names is missing or wrong.
    """

    def __init__(self, config: OracleConfig) -> None:
        self.address = ""  # host:port, once it is bound
        self.listening = trio.Event()
        self._config = config
        context = _context(config.tls)
        self._certificates = expiries.CertificatesInUse(config.tls)
        self._link = SignerLink(config.signer.socket, self._keys_changed)
        registry = Registry.open(config.database)
        self._view = RegistryView(registry, self._follow)
        self._ledger = Ledger(registry, self._link, self._view)
        self._wakefulness = Wakefulness()
        self._service = SigningService(
            load_policy(config.policy),
            self._link,
            time.monotonic,
            lambda: self._view.is_fresh,
            self._wakefulness.stay,
        )
        self._remarks = Remarks(self._service)
        self._reception = Reception(
            config.node,
            self._service,
            self._view,
            config.certificates,
            config.max_in_flight,
            Issuer(self._ledger, config.credentials),
            BootstrapReuse(self._link, trio.current_time),
            KeptHeads(config.node, self._link, trio.current_time),
            FallbackRecords(self._service, self._link, trio.current_time),
        )
        self._side_doors = SideDoors(config, self._reception, self._link, self._certificates)
        most = room_for(config.max_connections, self._side_doors.connections)
        self._doors = Doors(self._reception, context, most)
        self._attachments = None if config.attach is None else Attachments(config.attach, self._doors)
        self._signer: SignerProcess | None = None  # when we start it ourselves
        self._start_known = trio.Event()  # the signer has told its keys, or that it cannot start
        self._failure: ConfigError | None = None
        self._reloads = Reloads(self._reload)

    async def run(self) -> None:
        """Serve until told to stop; `listening` is set when `address` is bound.

        Raises:
            ConfigError: the policy does not fit the signer's keys, or the address cannot be bound.
        """
        # Two oracles with one registry would each count limits and ids for themselves, behind one name in the log.
        with held(self._config.lock_file, "oracle"):
            await self._run()

    async def _run(self) -> None:
        await self._load_registry()
        async with trio.open_nursery() as nursery:
            self._start_parts(nursery)
            await serve_until_stopped(
                self._serve,
                drain=self.stop,
                drain_seconds=DRAIN_SECONDS,
                reload=lambda: nursery.start_soon(self._reload_and_remark),
            )
            nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    async def _load_registry(self) -> None:
        try:
            await self._view.load()
        except RegistryError as error:
            raise ConfigError(str(error)) from error

    def _start_parts(self, nursery: trio.Nursery) -> None:
        if self._config.signer.config is not None and self._config.signer.start:
            logger.warning("the signer runs under our own uid: there is no isolation between the two processes")
            self._signer = SignerProcess(self._config.signer.config, self._signer_refused)
            nursery.start_soon(self._signer.run)
        for part in (
            self._link.run,
            self._view.run,
            self._view.run_notes,
            self._ledger.run,
            self._doors.keep_alive,
            self._sweep,
            self._service.afterwards.run,
            self._wakefulness.run,
            self._warn,
        ):
            nursery.start_soon(part)

    def _signer_refused(self) -> None:
        # Later, when we already serve, it is only a signer that is away: its keys file may be mended meanwhile.
        if not self._start_known.is_set():
            self._failure = ConfigError("the signer does not start: its reason stands above")
            self._start_known.set()

    async def _serve(self) -> None:
        with trio.move_on_after(SIGNER_START_SECONDS):
            await self._start_known.wait()
        if self._failure is None:
            await self._replay()
        if self._failure is not None:
            return
        try:
            require_sound(self._config.policy, self._service.policy, self._service.keys.values())
            self._remarks.make()
            ports = await open_ports(self._config.listen)
            ways = [Way(ports.relay, self._doors.shake_hands)]
            ways += [] if self._attachments is None else [self._attachments.way()]
        except ConfigError as error:
            self._failure = error  # raised at the end of `run`: the nurseries between would wrap it into groups
            return
        try:
            await self._side_doors.open(ports.others)
            await self._announce(ports.relay)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._side_doors.serve)
                await self._doors.serve(ways)
        except ConfigError as error:
            self._failure = error
        finally:
            for listener in chain(*ports.others.values(), *(way.listeners for way in ways)):
                listener.socket.close()

    async def _replay(self) -> None:
        try:
            await self._ledger.catch_up()
        except RegistryError as error:
            logger.warning("the audit log was not replayed, reason=%s", error)  # and nobody is let in until it is
        except BackendError as error:
            if isinstance(error, SignerError) and error.retryable:
                logger.info("the audit log is not replayed yet, reason=%s", error)  # the ledger says when it lasts
                return
            hint = "do registry and audit log belong together? put back the log's newest files, or a newer registry"
            self._failure = ConfigError(f"the audit log cannot be replayed into the registry: {error}", hint)

    async def _announce(self, listeners: Sequence[trio.SocketListener]) -> None:
        self.address, *others = map(bound_address, listeners)
        file = self._config.bound_address_file
        try:
            await trio.to_thread.run_sync(write_atomically, file, f"{self.address}\n".encode("ascii"), 0o644)
        except OSError as error:
            raise ConfigError(f"{file}: cannot be written: {error.strerror}") from error
        logger.info("listening, node=%s address=%s keys=%d", self._config.node, self.address, len(self._service.keys))
        if trouble := self._config.out_of_reach(self.address, *others):
            logger.warning("listen: %s", trouble)
        self.listening.set()
        systemd.notify(READY="1", STATUS=f"listening on {self.address}")

    def stop(self) -> None:
        """Accept nobody any more, and end when everybody has finished."""
        self._doors.drain()
        self._side_doors.drain()

    async def reload(self) -> None:
        """Take policy, TLS certificate and the keys file of a signer that we started, each whole or not at all."""
        await self._reloads.reload()

    async def _reload_and_remark(self) -> None:
        await self.reload()
        await self._remarks.make_later()

    async def _reload(self) -> None:
        if self._signer is not None:
            self._signer.reload()
        self._reload_certificate()
        path = self._config.policy
        try:
            policy = await trio.to_thread.run_sync(load_policy, path)
            require_sound(path, policy, self._service.keys.values())
        except ConfigError as error:
            logger.error("policy not reloaded, the old one stays, reason=%s", error)  # noqa: TRY400  the operator's mistake
            return
        self._service.policy = policy
        logger.info("policy reloaded, keys=%d runners=%d", len(policy.keys), len(policy.runners))
        self._service.drop_denied()
        self._follow()

    def _reload_certificate(self) -> None:
        try:
            # Fresh ones, shown when all are whole: a failed load would leave one that serves without its key.
            context = _context(self._config.tls)
            self._side_doors.reload()
        except ConfigError as error:
            logger.error("certificate not reloaded, the old one stays, reason=%s", error)  # noqa: TRY400  no bug
            return
        self._certificates.load()
        self._doors.show(context)

    def _follow(self) -> None:
        self._doors.follow()
        self._service.drop_revoked(lambda caller: isinstance(self._reception.still(caller), Caller))

    def _keys_changed(self, keys: Keys) -> None:
        self._service.serve_keys(keys.keys, keys.head)
        self._start_known.set()
        if self._signer is not None:
            self._signer.note_well()
        logger.info("keys of the signer, names=%s", ",".join(key.name for key in keys.keys))
        if self.listening.is_set():
            self._remarks.make()
        self._service.drop_denied()
        self._follow()

    async def _warn(self) -> None:
        with trio.move_on_after(SIGNER_START_SECONDS):
            await self._start_known.wait()
        # Asked each day anew: with each list of the signer's, `keys` is another dictionary.
        served, credentials = lambda: tuple(self._service.keys.values()), lambda: self._view.credentials
        await expiries.warn_daily(self._certificates, served, credentials)

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(SWEEP_SECONDS)
            self._service.sweep()
