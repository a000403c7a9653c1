"""The straight way to signatures: one connection to the first oracle, for as long as all goes as it mostly does.

It needs no event loop: to load one takes a good part of the time in which two hundred packages are signed. What is not
as usual ends it with UnusualError, and is the business of the relay's own client (`relay.sealed.detour`): an oracle
that is not there, another one to ask, ssh, a limit to wait for.
"""

import logging
import queue
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from agentproxy.protocol.errors import BlindOracleError, RemoteProtocolError
from agentproxy.protocol.frames import FrameReader, encode_frame
from agentproxy.protocol.key_messages import SelectedKey, SelectKey
from agentproxy.protocol.messages import FROM_ORACLE, FROM_RELAY, PROTOCOL_VERSION, FromOracle, FromRelay
from agentproxy.protocol.oracle_messages import Credentials, Drain, Failed, KeysChanged, Refused, Welcome
from agentproxy.protocol.relay_messages import Hello, Ping, Pong
from agentproxy.protocol.seal_messages import Sealed
from agentproxy.runtime.tlscontext import explain
from relay.clocks import ahead_seconds
from relay.config import OracleAddress, RelayConfig
from relay.heads import Heads
from relay.introduction import hello, tls_context

__all__ = ["SOFTWARE", "Reply", "StraightWay", "UnusualError", "open_straight"]

logger = logging.getLogger(__name__)

SOFTWARE = "blind-oracle-sign/0.1.0"
# Hundreds of times what it takes. An oracle that is not there within it may still be found by the detour, which has a
# whole deadline for that.
PATIENCE_SECONDS = 2.0
WRITE_SECONDS = 5.0  # for some hundred bytes
_READ_BYTES = 65_536
# At one time: what a hundred answers have. An oracle that talks without end would else keep whoever reads from looking
# at the clock, and fill our memory.
_MOST_BYTES = 65_536

Reply = Sealed | SelectedKey | Refused | Failed


class UnusualError(BlindOracleError):
    """Something that the straight way does not know how to handle."""


class StraightWay:
    """A connection that an oracle has welcomed; any thread sends, and any receives.

    Args:
        stream: past the handshake; does not block.
        reader: what came behind the welcome.
        welcome: the oracle's.
        heads: gets each end of the oracle's audit log.

    Attributes:
        keys: what the oracle serves to this runner.
        credentials: new ones that it sent, to be put in the place of the present ones.
        is_leaving: the oracle goes away for maintenance: it answers what it has, and wants nothing more.
    """

    def __init__(self, stream: ssl.SSLSocket, reader: FrameReader, welcome: Welcome, heads: Heads) -> None:
        self.keys = welcome.keys
        self.credentials: Credentials | None = None
        self.is_leaving = False
        self._stream = stream
        self._reader = reader
        self._heads = heads
        self._window = max(1, welcome.max_in_flight)
        self._in_flight: set[str] = set()
        self._unsent: deque[Callable[[], FromRelay]] = deque()  # behind the window
        self._problem: UnusualError | None = None  # why nothing more is read or written
        self._lock = threading.Lock()  # OpenSSL knows nothing of threads
        ahead_seconds(welcome)
        if welcome.head is not None:
            heads.welcomed(welcome.head)

    def fileno(self) -> int:
        """For poll(2); only worth it after `receive`, since a part may be here already."""
        return self._stream.fileno()

    def send(self, make: Callable[[], FromRelay], request_id: str) -> None:
        """Send a request now, or when the oracle has answered some of those before it.

        Args:
            make: called when it is sent, since it says how long the oracle may still take.
            request_id: its id.

        Raises:
            UnusualError: the connection broke.
        """
        with self._lock:
            if self._problem is not None:
                raise self._problem
            if len(self._in_flight) >= self._window:
                self._unsent.append(make)
            else:
                self._write(make())
            self._in_flight.add(request_id)

    def receive(self) -> list[Reply]:
        """Answers that have come, without waiting; none may also mean that there is more to read.

        Raises:
            UnusualError: the connection ended, or what came is for the detour. Answers before it came out before.
        """
        replies: list[Reply] = []
        with self._lock:
            if self._problem is None:
                self._problem = self._read()
                try:
                    while (payload := self._reader.next_payload()) is not None:
                        self._take(FROM_ORACLE.decode(payload), replies)
                except RemoteProtocolError as error:
                    self._problem = UnusualError(str(error))
                except UnusualError as error:
                    self._problem = error
            if self._problem is not None and not replies:
                raise self._problem
        return replies

    def _read(self) -> UnusualError | None:
        read = 0
        try:
            # A record is read whole, so poll(2) knows of what is left.
            while read < _MOST_BYTES:
                data = self._stream.recv(_READ_BYTES)
                if not data:
                    return UnusualError("the oracle closed the connection")
                self._reader.receive_data(data)
                read += len(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError as error:
            return UnusualError(explain(error))
        return None

    def _take(self, message: FromOracle, replies: list[Reply]) -> None:
        match message:
            case Sealed() | SelectedKey() | Refused() | Failed():
                if message.id not in self._in_flight:
                    return  # nobody asked; and an oracle could push all other nodes' heads out at will
                self._in_flight.remove(message.id)
                if isinstance(message, Sealed):
                    self._heads.note(message.head)
                replies.append(message)
                if self._unsent:
                    self._write(self._unsent.popleft()())
            case Ping():
                self._write(Pong(message.id))
            case Pong() | KeysChanged():
                pass  # a run keeps the key that it began with, and the oracle refuses it if it must
            case Credentials():
                self.credentials = message
            case Drain() if not self._unsent:
                self.is_leaving = True
            case _:
                raise UnusualError(f"the oracle said {message.tag}")

    def select(self, question: SelectKey) -> SelectedKey | Refused:
        """Which key is for a distribution; before anything else is asked.

        Raises:
            UnusualError: the connection ended, or there is no answer in time.
        """
        self.send(lambda: question, question.id)
        waiting = select.poll()
        waiting.register(self, select.POLLIN)
        until = time.monotonic() + PATIENCE_SECONDS
        while (left := until - time.monotonic()) > 0:
            for reply in self.receive():
                if isinstance(reply, SelectedKey | Refused):
                    return reply
                raise UnusualError(f"the oracle said {reply.tag}")
            waiting.poll(left * 1000)
        raise UnusualError("no answer in time")

    def _write(self, message: FromRelay) -> None:
        frame = encode_frame(FROM_RELAY.encode(message))
        try:
            while frame:
                try:
                    frame = frame[self._stream.send(frame) :]
                except ssl.SSLWantWriteError:
                    if not _is_writable(self._stream):
                        raise self._failed("the oracle does not read") from None
        except OSError as error:
            raise self._failed(explain(error)) from error

    def _failed(self, reason: str) -> UnusualError:
        """Behind a part of a frame nobody may write another one."""
        self._problem = UnusualError(reason)
        return self._problem

    def close(self) -> None:
        """Say goodbye, without waiting for an answer."""
        with self._lock:
            self._problem = UnusualError("it was closed here")
            with suppress(OSError):
                self._stream.unwrap()
            self._stream.close()


def _is_writable(stream: ssl.SSLSocket) -> bool:
    waiting = select.poll()
    waiting.register(stream, select.POLLOUT)
    return bool(waiting.poll(WRITE_SECONDS * 1000))


def open_straight(config: RelayConfig, heads: Heads) -> StraightWay:
    """Connect to the first oracle.

    Raises:
        ConfigError: the credentials cannot be read.
        UnusualError: it is not to be had like this.
    """
    oracle = config.oracles[0]
    if oracle.ssh is not None:
        raise UnusualError("the oracle is reached over ssh")
    context, greeting = tls_context(config), hello(config, SOFTWARE, heads.all())
    found: queue.SimpleQueue[tuple[ssl.SSLSocket, FrameReader, Welcome] | UnusualError] = queue.SimpleQueue()

    def dial() -> None:
        try:
            found.put(_dialled(oracle, context, greeting))
        except UnusualError as error:
            found.put(error)

    # In a thread: who looks up a name cannot be interrupted, and may wait long for the answer.
    threading.Thread(target=dial, name="dialling", daemon=True).start()
    try:
        result = found.get(timeout=PATIENCE_SECONDS)
    except queue.Empty:
        raise UnusualError(f"no welcome within {PATIENCE_SECONDS:.0f} s") from None
    if isinstance(result, UnusualError):
        raise result
    return StraightWay(*result, heads)


def _dialled(
    oracle: OracleAddress, context: ssl.SSLContext, greeting: Hello
) -> tuple[ssl.SSLSocket, FrameReader, Welcome]:
    try:
        plain = socket.create_connection((oracle.host, oracle.port), PATIENCE_SECONDS)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = context.wrap_socket(plain, server_hostname=oracle.server_name)
        except BaseException:
            plain.close()
            raise
        try:
            return _welcomed(stream, greeting)
        except BaseException:
            stream.close()
            raise
    except (OSError, ValueError, RemoteProtocolError) as error:  # ValueError: the resolver or TLS takes no such name
        raise UnusualError(explain(error)) from error


def _welcomed(stream: ssl.SSLSocket, greeting: Hello) -> tuple[ssl.SSLSocket, FrameReader, Welcome]:
    stream.sendall(encode_frame(FROM_RELAY.encode(greeting)))
    reader = FrameReader()
    while (payload := reader.next_payload()) is None:
        data = stream.recv(_READ_BYTES)
        if not data:
            raise UnusualError("the oracle closed the connection")
        reader.receive_data(data)
    message = FROM_ORACLE.decode(payload)
    if not isinstance(message, Welcome) or message.protocol != PROTOCOL_VERSION:
        raise UnusualError(f"no welcome, but {message.tag}")
    stream.setblocking(False)  # noqa: FBT003  the socket module's own signature
    return stream, reader, message
