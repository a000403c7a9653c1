"""The handshake of TLS, and who is on the other side behind it; `tlscontext` has what both sides agree on."""

import hashlib

import trio

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.runtime.tlscontext import explain
from agentproxy.runtime.tlsstream import TlsStream

__all__ = ["certificate_sha256", "handshake"]

HANDSHAKE_SECONDS = 10.0  # two round trips and two signatures; a peer that needs longer holds a slot on purpose
ALERT_SECONDS = 1.0
ALERT_READS = 16


async def handshake(stream: TlsStream) -> None:
    """Do the handshake of either side; a peer whose certificate we refuse is told why before the stream closes.

    Raises:
        RemoteProtocolError: it failed, with `explain`'s words, or took longer than HANDSHAKE_SECONDS. The stream is
            closed, as it is when we are cancelled.
    """
    failure = None
    try:
        with trio.move_on_after(HANDSHAKE_SECONDS):
            await stream.do_handshake()
            return
    except trio.BrokenResourceError as error:
        failure = error
    except trio.Cancelled:
        await trio.aclose_forcefully(stream)
        raise
    if failure is None:
        await trio.aclose_forcefully(stream)
        raise RemoteProtocolError(f"no TLS handshake within {HANDSHAKE_SECONDS:.0f} s")
    await _let_alert_arrive(stream)
    try:
        raise RemoteProtocolError(explain(failure)) from failure
    finally:
        failure = None  # it knows this frame: together they would keep the stream until a collection finds them


async def _let_alert_arrive(stream: TlsStream) -> None:
    # Without the alert the peer could not tell an unknown certificate from a crashed server.
    try:
        with trio.move_on_after(ALERT_SECONDS):
            await stream.transport.send_eof()
            # Closing with unread bytes would reset the connection, and the alert could be lost with it.
            for _ in range(ALERT_READS):
                if not await stream.transport.receive_some():
                    break
    except trio.BrokenResourceError:
        pass  # the peer is gone; nobody is left to be told
    finally:
        await trio.aclose_forcefully(stream)


def certificate_sha256(stream: TlsStream) -> str:
    """SHA-256 of the peer's certificate (DER) in lower-case hex; after the handshake.

    Raises:
        RemoteProtocolError: the peer showed none.
    """
    certificate = stream.tls.getpeercert(binary_form=True)
    if not certificate:
        raise RemoteProtocolError("the peer showed no certificate")
    return hashlib.sha256(certificate).hexdigest()
