"""`python -m agentproxy.signer --config FILE`: what systemd, and `blind-oracle serve`, start."""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime import config, logs
from agentproxy.signer import daemon
from agentproxy.signer.config import SignerConfig

EXIT_CONFIGURATION = 78  # EX_CONFIG of sysexits.h: systemd need not try again


def main() -> int:
    """Run the signer; 0 after an orderly end, 78 when the configuration is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m agentproxy.signer", description="Signs, and records what it signs."
    )
    parser.add_argument("--config", type=Path, required=True, help="signer.yaml")
    parser.add_argument("--end-with-input", action="store_true", help="end when standard input does")
    arguments = parser.parse_args()
    if arguments.end_with_input:
        threading.Thread(target=_end_with_input, daemon=True).start()
    logs.configure()
    try:
        daemon.run(config.load(arguments.config, SignerConfig))
    except ConfigError as error:
        for kind, text in (("error", str(error)), ("hint", error.hint)):
            for line in text.splitlines():
                sys.stderr.write(f"blind-oracle: {kind}: {line}\n")
        return EXIT_CONFIGURATION
    return 0


def _end_with_input() -> None:
    # Whoever started us holds the other end of the pipe; the kernel closes it however that process dies.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
