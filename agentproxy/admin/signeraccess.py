"""The signer for a command of the operator: the running one, or one that runs for the moment.

Two signers never write one audit log: its directory is locked, so a signer that we start beside a running one ends
with the reason.
"""

import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import outcome
import trio

from agentproxy.admin.layout import load_signer
from agentproxy.admin.readiness import ReadySocket
from agentproxy.oracle.config import OracleConfig
from agentproxy.oracle.signerlink import SignerError, connect
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.signer_messages import FromSigner, ToSigner
from agentproxy.protocol.signer_requests import ListKeys

__all__ = ["ask", "signer_for"]

START_SECONDS = 60.0  # unlocking some protected keys takes 0.5 s each
STOP_SECONDS = 10.0
ANSWER_SECONDS = 10.0  # issuing takes milliseconds; a disk that stalls takes longer


@contextmanager
def signer_for(oracle: OracleConfig) -> Iterator[Path]:
    """The socket of a signer that answers, for as long as the block lasts.

    Raises:
        ConfigError: none runs, and none can be started; with the signer's own reason.
    """
    try:
        ask(oracle.signer.socket, ListKeys(0))
    except SignerError as error:
        if oracle.signer.config is None or not oracle.signer.start:
            raise ConfigError(
                str(error), "systemd runs the signer: systemctl status blind-oracle-signer.socket"
            ) from error
    else:
        yield oracle.signer.socket
        return
    with _started(oracle, oracle.signer.config):
        yield oracle.signer.socket


def ask(path: Path, request: ToSigner) -> FromSigner:
    """Send one request, under an id of the connection's own, to the signer and wait for the answer.

    Raises:
        SignerError: nobody listens there, it did not answer, or it did not do it.
    """
    # In a thread of its own: a signal that ends a command raises wherever it strikes, and in the midst of an event loop
    # that is a page of tracebacks about the loop.
    answers: queue.SimpleQueue[outcome.Maybe[FromSigner]] = queue.SimpleQueue()

    def run() -> None:
        answers.put(outcome.capture(trio.run, _ask, path, request))

    threading.Thread(target=run, name="asking the signer", daemon=True).start()
    return answers.get().unwrap()


async def _ask(path: Path, request: ToSigner) -> FromSigner:
    with trio.move_on_after(ANSWER_SECONDS):
        async with connect(path) as link:
            return await link.request(replace(request, id=link.next_id()))
    raise ConfigError(f"{path}: the signer did not answer within {ANSWER_SECONDS:.0f} s")


@contextmanager
def _started(oracle: OracleConfig, config: Path) -> Iterator[None]:
    audit = load_signer(oracle).audit.directory
    with ReadySocket() as ready, tempfile.TemporaryFile() as log:
        process = _start(config, audit, ready.environment(), log)
        try:
            if not ready.wait(process.pid, START_SECONDS):
                raise ConfigError(f"the signer does not start:\n{_reasons(log)}")
            yield
        finally:
            _stop(process)


def _start(config: Path, audit: Path, environment: dict[str, str], log: BinaryIO) -> subprocess.Popen[bytes]:
    # As root we would leave files in the log that the signer's own user cannot write later.
    status = audit.stat()
    as_owner = os.geteuid() == 0 and status.st_uid != 0
    return subprocess.Popen(
        # -P: root may stand in a directory in which somebody else has put an `agentproxy` of his own.
        # It ends when its standard input does: not even our violent death leaves it behind with the log's lock.
        [sys.executable, "-P", "-m", "agentproxy.signer", "--config", config, "--end-with-input"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        user=status.st_uid if as_owner else None,
        group=status.st_gid if as_owner else None,
        extra_groups=[] if as_owner else None,
        start_new_session=True,  # Ctrl-C is for us; we stop it in good order
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    # The end of its input asks it to end, once: a signal beside it would be a second one, which ends it at once and
    # could take the log's last record and checkpoint away.
    try:
        process.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _reasons(log: BinaryIO) -> str:
    """What the signer said against starting, without our own program's name before each line."""
    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()
    said = [line.removeprefix("blind-oracle: ") for line in lines if line.startswith("blind-oracle: ")]
    return "\n".join(said or lines[-5:] or ["it did not say why"])
