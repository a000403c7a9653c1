"""The process that one target is fuzzed in: `python -m tests.fuzz.child TARGET SECONDS DIRECTORY [START]`."""

import contextlib
import sys
from pathlib import Path

import atheris

# Coverage guides the fuzzer only through code that is instrumented while it is imported.
with atheris.instrument_imports(include=["agentproxy", "relay"]):
    from tests.fuzz.targets import TARGETS

from agentproxy.protocol.errors import RemoteProtocolError


def main(name: str, seconds: str, directory: str, start: str = "0") -> None:  # 0: random
    target = TARGETS[name]
    corpus = Path(directory) / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)

    def run(untrusted: bytes) -> None:
        with contextlib.suppress(RemoteProtocolError):
            target.run(untrusted)

    limits = [
        f"-max_total_time={seconds}",
        "-max_len=4096",
        "-timeout=5",
        "-rss_limit_mb=1024",
        "-verbosity=0",
        f"-seed={start}",
    ]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={directory}/", str(corpus)], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
