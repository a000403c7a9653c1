"""What can be seen of a process: its command, its parents, its job, the file that it works on.

It is claimed, never proven: a process can choose its command line, and its pid may be another's by now. Looking may
block for ever, since others hold that memory and these files.
"""

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from itertools import takewhile

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import MAX_CLAIM, MAX_CLAIMS, MAX_COMMANDS, Claims, size_of_texts
from agentproxy.runtime.peer import Peer
from relay import procfs
from relay.cleaning import Room, clean
from relay.jobclaims import WANTED_VARIABLES, EnvironmentClaims, claims_of_disttag, claims_of_environment
from relay.procfs import Process
from relay.users import user_name
from relay.workfile import WorkFile, find_work_file

__all__ = ["FRESH_SECONDS", "Sighting", "claims_of", "look_at"]

# rpmsign runs one gpg after another, and their parents stay the same: what was read is used again for so long. A pid
# comes back sooner only on a host that starts 30000 processes a second, and then a claim is wrong, which it may be.
FRESH_SECONDS = 1.0
_MOST_KEPT = 256
_MOST_WORDS = 50_000  # on the command lines of what is kept: a hundred bytes each, and whoever asks chooses them
_WHOLE_COMMANDS = 4  # gpg, rpmsign, the script that runs it, the job's shell
# Characters of those above: a CI's runner is started with whole scripts and environments, which say little of the
# signature, and which the message and the record of each signature would carry.
_MOST_OF_OTHERS = 256


class Sighting:
    """One caller at one moment, each thing of it whole.

    Attributes:
        user, commands, environment, file: seen so far.
        whole: all of it as claims; None: it is not all seen, or does not fit into them.
    """

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.user: str | None = None
        self.commands: tuple[str, ...] = ()
        self.environment = EnvironmentClaims()
        self.file: WorkFile | None = None
        self.whole: Claims | None = None

    def complete(self) -> None:
        """All is seen. Putting it together in the thread that saw it spares the signature the time."""
        with contextlib.suppress(RemoteProtocolError):  # who asks for claims tells
            self.whole = self.claims(EnvironmentClaims())

    def claims(self, hint: EnvironmentClaims) -> Claims:
        """What we saw ourselves, and from `hint` what we could not see."""
        seen, file = self.environment, self.file
        package = file.package if file else None
        distributions = (claims_of_disttag(package.disttag) if package else ()) + seen.distributions
        whole = partial(
            Claims,
            uid=self.peer.uid,
            user=self.user,
            pid=self.peer.pid or None,
            distributions=tuple(dict.fromkeys((*distributions, *hint.distributions))),
        )
        path = clean(file.path, MAX_CLAIM) if file else hint.file
        nevra = clean(package.nevra, MAX_CLAIM) if package else hint.package
        job = {**hint.job, **seen.job}
        try:
            return whole(commands=self.commands, file=path, package=nevra, job=job)
        except RemoteProtocolError:
            room = Room(MAX_CLAIMS - size_of_texts((self.user or "",)))
            return whole(
                file=path if path is not None and room.has(path) else None,
                package=nevra if nevra is not None and room.has(nevra) else None,
                job={name: value for name, value in job.items() if room.has(name, value)},
                commands=tuple(takewhile(room.has, self.commands)),
            )


def look_at(sighting: Sighting) -> None:
    """Fill in what can be seen; what is most useful and least likely to block comes first."""
    peer = sighting.peer
    lineage = list(_lineage(peer.pid))
    sighting.commands = tuple(_command_lines(lineage))
    sighting.user = user_name(peer.uid)
    sighting.environment = claims_of_environment(procfs.environment(peer.pid, WANTED_VARIABLES))
    sighting.file = find_work_file(lineage)


def claims_of(peer: Peer) -> Claims | None:
    """As `Observer.claims`, at once and however long it takes: for a command that tells of itself."""
    sighting = Sighting(peer)
    look_at(sighting)
    try:
        return sighting.claims(EnvironmentClaims())
    except RemoteProtocolError:
        return None


def _lineage(pid: int) -> Iterator[Process]:
    for _ in range(MAX_COMMANDS):
        if pid <= 1:
            return
        process = _processes.get(pid)
        if process is None:
            return  # it ended, or belongs to somebody whom we may not look at
        yield process
        pid = process.parent


def _command_lines(lineage: list[Process]) -> Iterator[str]:
    for number, process in enumerate(lineage):
        if not process.claim:
            return
        yield process.claim if number < _WHOLE_COMMANDS else process.claim[:_MOST_OF_OTHERS]


class _Processes:
    """Processes that were read a moment ago; shared by the threads, each step of which is one of dict's own."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[float, Process | None]] = {}

    def get(self, pid: int) -> Process | None:
        known, now = self._kept.get(pid), time.monotonic()
        if known is not None and now - known[0] < FRESH_SECONDS:
            return known[1]
        process = procfs.process(pid)
        words = _words_of(process)
        kept = sum(_words_of(one) for _, one in list(self._kept.values()))
        if len(self._kept) >= _MOST_KEPT or kept + words > _MOST_WORDS:
            self._kept.clear()
        if words <= _MOST_WORDS:
            self._kept[pid] = (now, process)
        return process


def _words_of(process: Process | None) -> int:
    return 0 if process is None else len(process.words)


_processes = _Processes()
