"""The log: one line per record on standard error, where systemd's journal or a file takes it.

Whatever a peer managed to get into a record, a reader sees as text: no control character leaves this module.
"""

import contextlib
import logging
import os
import re
import sys
from datetime import UTC, datetime
from typing import TextIO

__all__ = ["configure"]

# C0 and C1, line and paragraph separators, and the marks that reorder text on a screen (Unicode TR 36, 3.1).
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# syslog's severities, which the journal takes from a `<N>` before the line (sd-daemon(3)).
_SEVERITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def configure(level: int | str = logging.INFO) -> None:
    """Send records of `level` and above to standard error; a second call replaces the first."""
    handler = _LineHandler(sys.stderr, for_journal="JOURNAL_STREAM" in os.environ)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # What no line of ours shows need not be found out for each: it takes half the time (logging's HOWTO, Optimization).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001  the documented way
    # A log that cannot be written must not print a traceback for each line into the same broken place.
    logging.raiseExceptions = False


class _LineHandler(logging.StreamHandler[TextIO]):
    """Leaves it to standard error, which is buffered by lines, to write each line: logging would ask it once more."""

    def __init__(self, stream: TextIO, *, for_journal: bool) -> None:
        super().__init__(stream)
        self._for_journal = for_journal
        self._traces = logging.Formatter("%(message)s")

    def emit(self, record: logging.LogRecord) -> None:
        try:
            is_plain = not (record.exc_info or record.exc_text or record.stack_info)
            message = record.getMessage() if is_plain else self._traces.format(record)
        except Exception:  # noqa: BLE001  as logging's own handlers
            self.handleError(record)
        else:
            self._write(record, f"{record.name}: {message}")

    def _write(self, record: logging.LogRecord, line: str) -> None:
        """Write one line; what cannot be written there, there is no other place for."""
        if not line.isprintable():  # nothing unsafe is, and almost every line is
            line = _UNSAFE.sub(_escaped, line)
        if self._for_journal:  # it has the time itself
            start = f"<{_SEVERITIES.get(record.levelno, 6)}>"
        else:
            moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
            start = f"{moment.removesuffix('+00:00')}Z {record.levelname.lower()} "
        # AttributeError: who was started with its standard error closed has None in place of the stream.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self.stream.write(f"{start}{line}\n")


def _escaped(match: re.Match[str]) -> str:
    number = ord(match[0])
    if match[0] == "\n":
        return "\\n"  # tracebacks: still readable in one line
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
