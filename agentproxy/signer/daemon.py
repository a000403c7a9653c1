"""The signer as a process: opens keys and log, serves the socket, ends in good order."""

import functools
import logging
import os
import socket
from dataclasses import replace
from datetime import UTC, datetime

import trio

from agentproxy import __version__
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.signer_requests import Outcome
from agentproxy.runtime import systemd
from agentproxy.runtime.reloads import Reloads
from agentproxy.runtime.secretfiles import read_secret
from agentproxy.runtime.serve import keep_what_is_loaded, serve_until_stopped
from agentproxy.runtime.unixsocket import bind, check_inherited
from agentproxy.signer.authority import Authority
from agentproxy.signer.checkpointfile import CHECKPOINT_SECONDS
from agentproxy.signer.config import SignerConfig
from agentproxy.signer.hardening import harden
from agentproxy.signer.keyring import Keyring, open_keyring
from agentproxy.signer.log import AuditLog, LogUnavailableError
from agentproxy.signer.logkey import LogKey, open_log_key
from agentproxy.signer.pipeline import Pipeline
from agentproxy.signer.record import Entry
from agentproxy.signer.requests import Requests
from agentproxy.signer.server import Server

__all__ = ["run"]

logger = logging.getLogger(__name__)

SOCKET_NAME = "signer"  # FileDescriptorName= of its socket unit
DRAIN_SECONDS = 10.0  # for what is in flight when we are told to end: one signature of a slow device, at most


def run(config: SignerConfig) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: something that the configuration names cannot be used.
    """
    harden()
    peers = config.peers
    keyring = open_keyring(config, datetime.now(UTC))
    authority = _open_authority(config)
    key = open_log_key(config.audit_key)
    try:
        with AuditLog.open(config.audit.directory, config.node, config.audit.limits, key=key) as log:
            log.append([_started_entry(keyring, key)])
            keep_what_is_loaded()
            trio.run(_serve, config, peers, keyring, authority, log)
            log.append([Entry("signer_stopped", Outcome.DONE)])
    except LogUnavailableError as error:
        raise ConfigError(f"audit log: {error}", "without its log the signer signs nothing") from error


def _open_authority(config: SignerConfig) -> Authority:
    paths = config.authority
    try:
        return Authority.load(read_secret(paths.key), paths.certificate.read_bytes())
    except OSError as error:
        raise ConfigError(f"{paths.certificate}: cannot be read: {error.strerror}") from error


async def _serve(
    config: SignerConfig, peers: frozenset[int], keyring: Keyring, authority: Authority, log: AuditLog
) -> None:
    threads = config.signing_threads or max(2, len(os.sched_getaffinity(0)))
    listener = _listener(config)
    pipeline = Pipeline(log, trio.lowlevel.current_trio_token().run_sync_soon, threads)
    try:
        requests = Requests(config.node, keyring, authority, pipeline, config.audit.directory)
        server = Server(requests, peers)
        reloads = Reloads(functools.partial(_reload, config, requests))
        async with trio.open_nursery() as reloading, trio.open_nursery() as checkpoints:
            checkpoints.start_soon(_keep_checkpoints, pipeline)
            await serve_until_stopped(
                functools.partial(_announced, server, listener, requests),
                drain=server.drain,
                drain_seconds=DRAIN_SECONDS,
                reload=functools.partial(reloading.start_soon, reloads.reload),
            )
            checkpoints.cancel_scope.cancel()
    finally:
        pipeline.close()  # blocks: nothing else runs here any more


async def _keep_checkpoints(pipeline: Pipeline) -> None:
    # Under load each record's pen looks after it; this is for the last ones before a quiet time.
    while True:
        await trio.sleep(CHECKPOINT_SECONDS)
        await trio.to_thread.run_sync(pipeline.keep_up)


async def _announced(server: Server, listener: trio.SocketListener, requests: Requests) -> None:
    def status() -> str:
        return f"serving {len(requests.keyring.facts)} keys"

    systemd.notify(READY="1", STATUS=status())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(systemd.keep_status, status)
        await server.serve(listener)
        nursery.cancel_scope.cancel()


def _listener(config: SignerConfig) -> trio.SocketListener:
    """The socket that systemd passed, or one of our own."""
    passed = systemd.listeners({SOCKET_NAME}, {socket.AF_UNIX}).get(SOCKET_NAME, [])
    if len(passed) > 1:
        raise ConfigError(f"systemd passed {len(passed)} sockets, expected one", "one ListenStream= in the socket unit")
    if not passed:
        return bind(config.socket, 0o660)
    check_inherited(passed[0], config.socket)
    return passed[0]


async def _reload(config: SignerConfig, requests: Requests) -> None:
    """Take the keys file anew, whole or not at all."""
    try:
        keyring = await trio.to_thread.run_sync(open_keyring, config, datetime.now(UTC))
    except ConfigError as error:
        logger.error("keys not reloaded, the old ones stay: %s", error)  # noqa: TRY400  an operator's mistake, no bug
        return
    requests.keyring = keyring
    requests.note(_keys_entry("keys_reloaded", keyring))
    logger.info("keys reloaded, number=%d", len(keyring.facts))


def _started_entry(keyring: Keyring, key: LogKey) -> Entry:
    entry = _keys_entry("signer_started", keyring)
    return replace(entry, details={**entry.details, "audit_key": key.public.id.hex()})


def _keys_entry(operation: str, keyring: Keyring) -> Entry:
    keys = {f"key.{facts.name}"[:64]: str(facts.fingerprint) for facts in keyring.facts.values()}
    return Entry(operation, Outcome.DONE, details={"version": __version__, **keys})
