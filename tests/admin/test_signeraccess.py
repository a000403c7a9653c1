"""Commands that ask the signer, which may hang."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agentproxy.admin.signeraccess import ask
from agentproxy.protocol.errors import BlindOracleError
from agentproxy.protocol.signer_requests import Status

SECONDS = 30
ASKING = """
import sys
from pathlib import Path
from agentproxy.admin.cli import _take_signals
from agentproxy.admin.signeraccess import ask
from agentproxy.protocol.signer_requests import Status
_take_signals()
ask(Path(sys.argv[1]), Status(0))
"""


def test_a_command_that_waits_for_a_hanging_signer_can_be_ended(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "signer"))
        listening.listen()
        listening.settimeout(SECONDS)
        with subprocess.Popen(
            [sys.executable, "-c", ASKING, tmp_path / "signer"], stderr=subprocess.PIPE, text=True
        ) as command:
            hanging, _ = listening.accept()
            with hanging:
                hanging.settimeout(SECONDS)
                assert hanging.recv(1), "the request, so the command waits for its answer"
                command.send_signal(signal.SIGTERM)
                said = command.communicate(timeout=SECONDS)[1]
    assert (command.returncode, said) == (143, "")


def test_a_signer_that_is_not_there_is_told_as_ever(tmp_path: Path) -> None:
    with pytest.raises(BlindOracleError, match="nobody"):
        ask(tmp_path / "nobody", Status(0))
