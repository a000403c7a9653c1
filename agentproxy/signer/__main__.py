"""`python -m agentproxy.signer --config FILE`: what systemd, and `blind-oracle serve`, start."""

import argparse
import logging
import sys
from pathlib import Path

from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime import config
from agentproxy.signer import daemon
from agentproxy.signer.config import SignerConfig

EXIT_CONFIGURATION = 78  # EX_CONFIG of sysexits.h: systemd need not try again


def main() -> int:
    """Run the signer; 0 after an orderly end, 78 when the configuration is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m agentproxy.signer", description="Signs, and records what it signs."
    )
    parser.add_argument("--config", type=Path, required=True, help="signer.yaml")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        daemon.run(config.load(arguments.config, SignerConfig))
    except ConfigError as error:
        for kind, text in (("error", str(error)), ("hint", error.hint)):
            for line in text.splitlines():
                sys.stderr.write(f"blind-oracle: {kind}: {line}\\n")
        return EXIT_CONFIGURATION
    return 0


if __name__ == "__main__":
    sys.exit(main())
