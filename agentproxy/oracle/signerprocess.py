"""The signer as our child, for when systemd does not run it: started, started again when it dies, stopped with us.

Under one uid there is no isolation between the two processes; two units with two users give it.
"""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import trio

from agentproxy.runtime import systemd

__all__ = ["SignerProcess"]

logger = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 10.0  # for a signer that cannot start: its reason stands in the log each time
EXIT_CONFIGURATION = 78  # the signer's: something that the operator wrote is wrong
STOP_SECONDS = 5.0  # it finishes the batch that it writes; then it is killed, which costs nothing that was released


class SignerProcess:
    """The child, whichever it is just now.

    Args:
        config: signer.yaml.
        refused: called whenever it ended because of its configuration, after it told the reason on standard error.
    """

    def __init__(self, config: Path, refused: Callable[[], None]) -> None:
        self._config = config
        self._refused = refused
        self._process: trio.Process | None = None
        self._delay = FIRST_RETRY_SECONDS
        self._answers = self._reload_is_due = False  # the present child

    def note_well(self) -> None:
        """It answers: when it dies now that was an accident, and it starts again without delay."""
        self._delay = FIRST_RETRY_SECONDS
        self._answers = True
        if self._reload_is_due:
            self.reload()

    def reload(self) -> None:
        """Let it take its keys file anew: at once, or as soon as it answers."""
        # SIGHUP ends a process that does not attend to it yet, and what that has read may be older than this call.
        self._reload_is_due = not self._answers
        if self._answers and self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGHUP)

    async def run(self) -> None:
        """Keep `python -m agentproxy.signer --config` running until cancelled."""
        while True:
            try:
                code = await self._run_once()
            except OSError as error:  # this host has no process, memory or file left; it may have some soon
                logger.error("signer not started, reason=%s next_start_s=%.1f", error.strerror, self._delay)  # noqa: TRY400  no bug
            else:
                if code == EXIT_CONFIGURATION:
                    self._refused()
                logger.error("signer ended, status=%d next_start_s=%.1f", code, self._delay)
            await trio.sleep(self._delay)
            self._delay = min(self._delay * 2, LAST_RETRY_SECONDS)

    async def _run_once(self) -> int:
        # It ends when its standard input does: not even our violent death leaves a signer behind that holds the log.
        # -P: we may stand in a directory in which somebody else has put an `agentproxy` of his own.
        command = [sys.executable, "-P", "-m", "agentproxy.signer", "--config", str(self._config), "--end-with-input"]
        # A process group of its own: Ctrl-C reaches us alone, and we stop it when our connections are done.
        environment = {name: value for name, value in os.environ.items() if name not in systemd.VARIABLES}
        # Whatever was asked for before this reads the file is read by its start.
        self._answers = self._reload_is_due = False
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, start_new_session=True, env=environment
        )
        logger.info("signer started, pid=%d", process.pid)
        self._process = process
        try:
            return await process.wait()
        finally:
            self._process = None
            self._answers = False
            with trio.move_on_after(2 * STOP_SECONDS, shield=True):
                await _stop(process)


async def _stop(process: trio.Process) -> None:
    if process.stdin is not None:
        # This asks it to end, once: a signal beside it would be a second one, which ends it in the middle of its work.
        await process.stdin.aclose()
    with trio.move_on_after(STOP_SECONDS):
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
