"""`blind-oracle-relay`: enroll, serve, setup, status.

Exit status: 0 done, 1 it did not work, 2 wrong usage, 130 interrupted; 143 `setup` or `keyrings` ended by SIGTERM.
"""

import gc
import io
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from agentproxy.protocol.errors import BlindOracleError, ConfigError

__all__ = ["main"]

FAILED, USAGE, INTERRUPTED = 1, 2, 130
# While a relay is loaded: most of what it makes stays, and each look of Python's usual ones, three times as many, would
# find it again. With none at all an idle relay would be a MB larger for what they do find.
COLLECTIONS = (2_000, 10, 50)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave with its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if sys.stdout is None and words[:1] != ["serve"]:  # a daemon may be started so, and prints nothing
        print("blind-oracle-relay: error: standard output is closed", file=sys.stderr)
        print("blind-oracle-relay: hint: /dev/null takes what nobody wants to read", file=sys.stderr)
        sys.exit(FAILED)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # As on standard error: claims and file names are in any script, and a locale may have one only.
        sys.stdout.reconfigure(errors="backslashreplace")
    if words[:1] in (["setup"], ["keyrings"]):  # the others leave nothing behind that the next one does not take away
        signal.signal(signal.SIGTERM, _leave)
    try:
        # `serve` stays for months: without click it takes 3 MB less, and its first signature comes sooner.
        if words[:1] == ["serve"] and (config := _serve_config(words[1:])) is not None:
            _serve(config)
            status = 0
        else:
            from relay.commandline import run_command  # noqa: PLC0415  as above

            status = run_command(words)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except OSError as error:
        from agentproxy.runtime.output import give_up_output  # noqa: PLC0415  the daemon needs none of it

        if said := give_up_output(error):
            print(f"blind-oracle-relay: error: {said}", file=sys.stderr)
        sys.exit(FAILED)
    except (BlindOracleError, ExceptionGroup) as error:
        _complain(error)
        sys.exit(FAILED)
    sys.exit(status)


def _leave(number: int, _frame: FrameType | None) -> None:
    # So that what works for us in a home as its owner ends, too; unless we are about to leave already.
    if not isinstance(sys.exc_info()[1], KeyboardInterrupt | SystemExit):
        sys.exit(128 + number)


def _serve_config(words: Sequence[str]) -> Path | None:
    """The configuration file when the words after `serve` are plain; None leaves them to click."""
    match words:
        case []:
            from relay.config import config_path  # noqa: PLC0415  as below

            return config_path()
        case ["--config", path] if path:
            return Path(path)
        case [word] if word.startswith("--config="):
            return Path(word.removeprefix("--config="))
    return None


def _serve(config: Path) -> None:
    gc.set_threshold(*COLLECTIONS)
    from relay.daemon import run  # noqa: PLC0415  the other commands do not need trio

    run(config)


def _complain(error: BlindOracleError | ExceptionGroup) -> None:
    for reason in _leaves(error):
        if not isinstance(reason, BlindOracleError):
            raise error  # a bug of ours: the traceback is what its finder needs
        for line in str(reason).splitlines():
            print(f"blind-oracle-relay: error: {line}", file=sys.stderr)
        if isinstance(reason, ConfigError) and reason.hint:
            print(f"blind-oracle-relay: hint: {reason.hint}", file=sys.stderr)


def _leaves(error: BaseException) -> list[BaseException]:
    # A daemon's error comes wrapped in one group for each nursery that it passed.
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


if __name__ == "__main__":
    main()
