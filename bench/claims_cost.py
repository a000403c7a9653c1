"""What it costs a signature that the relay looks at its caller: two relays side by side, one that looks and one not."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.agent_load import Target
from bench.relay_cost import first_answer

__all__ = ["milliseconds"]

ROOT = Path(__file__).parent.parent
LOOK_MS = 5  # relay.yaml's default


@contextmanager
def _relay(command: list[str], environment: dict[str, str], keygrip: str, claims_ms: int) -> Iterator[Path]:
    """A relay with the credentials of the usual one, a state directory and a socket of its own; gives the socket."""
    usual = Path(environment["BLIND_ORACLE_RELAY_CONFIG"])
    config, socket = (usual.with_name(f"claims-{claims_ms}{suffix}") for suffix in (".yaml", ".sock"))
    text = re.sub(r"(?m)^state: .*$", f"state: claims-{claims_ms}.state", usual.read_text())
    config.write_text(re.sub(r"(?m)^  - path: .*$", f"  - path: {socket}", text) + f"claims_ms: {claims_ms}\n")
    process = subprocess.Popen([*command, "--config", str(config)], env=environment, stderr=subprocess.DEVNULL)
    try:
        first_answer(socket, Target(socket, keygrip))
        yield socket
    finally:
        process.terminate()
        process.wait()


def milliseconds(
    command: list[str], keygrip: str, package: Path, environment: dict[str, str], count: int
) -> tuple[list[float], list[float]]:
    """From SIGKEY to the signature, with a look at the caller and without, in turns.

    Args:
        command: serves as the relay that `environment` describes.
        package: an RPM; whoever asks is a child of something that looks like rpmsign and holds it open.
        count: signatures of each; each is asked for by a process that the relay has never seen.
    """
    with _relay(command, environment, keygrip, LOOK_MS) as looks, _relay(command, environment, keygrip, 0) as does_not:
        asking = ["rpmsign", "-m", "bench.rpmsign_like", keygrip, str(count), str(package), str(looks), str(does_not)]
        # By its first word it would take rpmsign's directory for its own.
        variables = {**os.environ, "PYTHONHOME": sys.base_prefix}
        done = subprocess.run(
            asking, executable=sys.executable, check=True, capture_output=True, text=True, cwd=ROOT, env=variables
        )
    taken = [float(line) / 1000 for line in done.stdout.split()]
    return taken[::2], taken[1::2]
