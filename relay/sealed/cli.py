"""`blind-oracle-sign`: rpm, detached, repo.

Exit status: 0 every file is signed or was kept, 1 one is not, 2 wrong usage, 130 interrupted.
"""

import contextlib
import gc
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from agentproxy.protocol.errors import BlindOracleError, ConfigError
from relay.sealed.errors import INTERRUPTED

__all__ = ["main"]

FAILED = 1
# New containers before a collection of the young ones, how many of those before one of the middle-aged, and of those
# before a full one. Only reference cycles wait for it, and a file leaves hardly any; meanwhile nobody else can work.
COLLECTIONS = (20_000, 20, 100)
# What is only imported while the oracle is dialled; that it is missing shall be told before anything is asked for.
_LOADED_LATER = ("rpm_rs", "cryptography")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave with its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # A job that is cancelled, and a terminal that closes, end us as Ctrl-C does; nohup's stay ignored.
        for each in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(each) is signal.SIG_DFL:
                signal.signal(each, signal.default_int_handler)
        run_command = _loaded()
        status = run_command(words)
    except KeyboardInterrupt:
        _end(INTERRUPTED)
    except (BlindOracleError, ModuleNotFoundError, BaseExceptionGroup) as error:
        _end(_complain(error))
    if status == INTERRUPTED:
        _end(status)
    _leave(status)


def _end(status: int) -> NoReturn:
    """End after a trouble, without the threads: one may be importing from a slow disk, or writing to who does not read.

    What standard output did not take would make the interpreter's end another trouble.
    """
    if status != INTERRUPTED:  # else a thread may hold the stream
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.flush()
    os._exit(status)


def _leave(status: int) -> NoReturn:
    """End the process as it is: to take the interpreter apart would take a fiftieth of the time of 200 small packages.

    Nothing waits for that: what was written is on disk, and the threads have ended.
    """
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # it was closed when we began
                stream.flush()
    except OSError:
        sys.exit(status)  # which tells of it
    os._exit(status)


def _loaded() -> Callable[[Sequence[str]], int]:
    # What imports leave behind lives as long as we do: neither meanwhile nor later need a collection look at it, which
    # would take a tenth of the start, and as long again at the end.
    gc.disable()
    try:
        for name in _LOADED_LATER:
            if importlib.util.find_spec(name) is None:
                raise ModuleNotFoundError(name=name)
        from relay.sealed.commandline import run_command  # noqa: PLC0415  what is not installed shall be one line
    finally:
        gc.freeze()
        gc.set_threshold(*COLLECTIONS)
        gc.enable()
    return run_command


def _complain(error: BaseException) -> int:
    """Say what went wrong; the exit status. What ended the detour comes in a group for each nursery it passed."""
    if isinstance(error, BaseExceptionGroup):
        missing = error.subgroup(ModuleNotFoundError)
        if missing is not None:  # the same for every file that was under way
            return _complain(missing.exceptions[0])
        return max(_complain(inner) for inner in error.exceptions)
    if sys.stderr is None:  # closed when we began; print would take standard output, where a program reads JSON
        return FAILED
    if isinstance(error, ModuleNotFoundError):
        print(f"blind-oracle-sign: error: {error.name} is not installed", file=sys.stderr)
        print("blind-oracle-sign: hint: pip install 'blind-oracle[client]'", file=sys.stderr)
        return FAILED
    if not isinstance(error, BlindOracleError | BrokenPipeError):
        raise error  # a bug of ours: the traceback is what its finder needs
    for line in str(error).splitlines():
        print(f"blind-oracle-sign: error: {line}", file=sys.stderr)
    if isinstance(error, ConfigError) and error.hint:
        print(f"blind-oracle-sign: hint: {error.hint}", file=sys.stderr)
    return FAILED


if __name__ == "__main__":
    main()
