"""Reads a relay's journal for people: is it whole, and what is in it; it may run beside the relay."""

from pathlib import Path

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.values import frozen
from agentproxy.runtime.files import read_beginning
from relay.journalchain import Delivered, JournalDamagedError, JournalEnd, follow, read_mark, whole_length, whole_lines

__all__ = ["Reading", "read"]


@frozen
class Reading:
    """What was found."""

    file: Path
    end: JournalEnd
    lines: tuple[bytes, ...]  # of the whole records, without newlines
    damage: str  # empty: it is whole
    torn: int  # bytes behind the last whole line
    mark: Delivered | None

    @property
    def words(self) -> str:
        """For people."""
        if self.damage:
            return f"damaged: {self.file}: {self.damage}"
        torn = f"; {self.torn} bytes of a torn end, as after a crash or while a record is being written" * bool(
            self.torn
        )
        waiting = self.end.sequence - (self.mark.sequence if self.mark else 0)
        delivered = f", {waiting} not delivered" if waiting else ", all delivered"
        name = f"journal {self.end.journal}, " if self.end.journal else ""
        return f"whole: {name}{self.end.sequence} records{delivered}, head {self.end.hash.hex()}{torn}"


def read(file: Path) -> Reading:
    """Check every record, and that it holds what an oracle has, when the mark of that lies beside it.

    Raises:
        ConfigError: it cannot be read, or is no file.
    """
    mark = None
    try:
        mark = read_mark(file.with_name("delivered.json"))
        file.stat()  # whether there is one
        data = read_beginning(file, -1)
    except FileNotFoundError as error:
        raise _nothing(file, mark) from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except JournalDamagedError as error:
        return Reading(file, JournalEnd(), (), str(error), 0, None)
    whole = whole_length(data)
    lines = tuple(whole_lines(data[:whole]))
    try:
        end, _ = follow(data[:whole], mark)
    except JournalDamagedError as error:
        return Reading(file, JournalEnd(), lines, str(error), 0, mark)
    return Reading(file, end, lines, "", len(data) - whole, mark)


def _nothing(file: Path, mark: Delivered | None) -> ConfigError:
    if mark is not None:
        though = f"though an oracle has record {mark.sequence} of one, as delivered.json beside it says"
        return ConfigError(
            f"{file}: there is no journal, {though}", "both belong together, also when they are moved away"
        )
    return ConfigError(
        f"{file}: there is no journal", "no file here: nothing was recorded yet, or somebody has moved it away"
    )
