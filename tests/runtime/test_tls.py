import contextlib
import hashlib
import socket
import ssl
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.runtime import tlscontext
from agentproxy.runtime.streams import EndOfStream, FramedStream
from agentproxy.runtime.tls import certificate_sha256, handshake
from agentproxy.runtime.tlscontext import client_context, explain, server_context
from agentproxy.runtime.tlsstream import TlsStream
from tests.runtime.keychanges import KeyChanger


@dataclass(frozen=True, slots=True)
class Files:
    authority: Path
    certificate: Path
    key: Path


def issued(directory: Path, authority: trustme.CA, *names: str) -> Files:
    directory.mkdir()
    certificate = authority.issue_cert(*names)
    authority.cert_pem.write_to_path(directory / "authority.crt")
    certificate.private_key_pem.write_to_path(directory / "k")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(directory / "c", append=True)
    return Files(directory / "authority.crt", directory / "c", directory / "k")


@pytest.fixture(name="authority", scope="module")
def the_authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(name="server")
def the_server(tmp_path: Path, authority: trustme.CA) -> Files:
    return issued(tmp_path / "server", authority, "localhost")


@pytest.fixture(name="client")
def the_client(tmp_path: Path, authority: trustme.CA) -> Files:
    return issued(tmp_path / "client", authority, "b1")


refusals: list[str] = []


async def conversation(server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost") -> tuple[str, str]:
    """One frame each way; gives what each side saw of the other's certificate, or raises what the client met."""
    seen = ""
    served = trio.Event()

    async def answer(raw: trio.SocketStream) -> None:
        nonlocal seen
        stream = TlsStream(raw, server, server_side=True)
        framed = FramedStream(stream)
        try:
            await handshake(stream)
            seen = certificate_sha256(stream)
            framed.send_soon((await framed.receive())[0])
            framed.end_soon()
            await framed.run_sender()
        except (RemoteProtocolError, EndOfStream) as error:
            refusals.append(str(error))
        finally:
            await framed.aclose()
            served.set()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, answer, listeners)
            port = listeners[0].socket.getsockname()[1]
            raw = await trio.open_tcp_stream("127.0.0.1", port)
            stream = TlsStream(raw, client, server_hostname=name)
            framed = FramedStream(stream)
            try:
                await handshake(stream)
                theirs = certificate_sha256(stream)
                framed.send_soon(b"hello")
                framed.end_soon()
                await framed.run_sender()
                assert await framed.receive() == [b"hello"]
                assert stream.tls.version() == "TLSv1.3"
                session = stream.tls.session
                assert session is not None
                assert not session.has_ticket
            finally:
                with trio.fail_after(5, shield=True):
                    await framed.aclose()
                    await served.wait()
                nursery.cancel_scope.cancel()
    return seen, theirs


def sha256_of(file: Path) -> str:
    return hashlib.sha256(
        ssl.PEM_cert_to_DER_cert(file.read_text().split("-----END")[0] + "-----END CERTIFICATE-----")
    ).hexdigest()


async def met(server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost") -> str:
    try:
        await conversation(server, client, name)
    except ExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, ExceptionGroup):
            [error] = error.exceptions
        assert isinstance(error, RemoteProtocolError)
        return str(error)
    raise AssertionError("the connection was accepted")


async def test_both_sides_see_the_others_certificate(server: Files, client: Files) -> None:
    seen = await conversation(
        server_context(server.certificate, server.key, client.authority),
        client_context(server.authority, client.certificate, client.key),
    )
    assert seen == (sha256_of(client.certificate), sha256_of(server.certificate))


async def test_another_hosts_certificate_is_refused(server: Files, client: Files) -> None:
    words = await met(
        server_context(server.certificate, server.key, client.authority),
        client_context(server.authority, client.certificate, client.key),
        "oracle.example",
    )
    assert "Hostname mismatch" in words


async def test_a_client_of_another_authority_learns_that_it_is_unknown(server: Files, tmp_path: Path) -> None:
    stranger = issued(tmp_path / "stranger", trustme.CA(), "b1")
    words = await met(
        server_context(server.certificate, server.key, server.authority),
        client_context(server.authority, stranger.certificate, stranger.key),
    )
    assert words == "the other side does not know this certificate: another authority issued it"
    assert refusals[-1].startswith("the certificate of the other side is not good: ")


async def test_a_client_without_certificate_learns_that_it_needs_one(server: Files) -> None:
    bare = ssl.create_default_context(cafile=server.authority)
    words = await met(server_context(server.certificate, server.key, server.authority), bare)
    assert words == "the other side wants a client certificate and got none"
    assert refusals[-1] == "the client sent no certificate"


async def test_a_server_of_another_authority_is_refused(client: Files, tmp_path: Path) -> None:
    stranger = issued(tmp_path / "stranger", trustme.CA(), "localhost")
    words = await met(
        server_context(stranger.certificate, stranger.key, client.authority),
        client_context(client.authority, client.certificate, client.key),
    )
    assert words.startswith("the certificate of the other side is not good: ")


async def test_older_tls_is_refused(server: Files, client: Files) -> None:
    old = client_context(server.authority, client.certificate, client.key)
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    words = await met(server_context(server.certificate, server.key, client.authority), old)
    assert words == "the other side does not speak TLS 1.3"


def test_wrong_files_are_refused_by_name(server: Files, client: Files, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="client/k: not the PEM key of the certificate"):
        server_context(server.certificate, client.key, server.authority)
    with pytest.raises(ConfigError, match=r"gone: cannot be read: No such file"):
        server_context(server.certificate, server.key, tmp_path / "gone")
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigError, match=r"empty: expected certificates in PEM"):
        client_context(tmp_path / "empty", client.certificate, client.key)


@pytest.mark.parametrize("gone", ["certificate", "key", "authority"])
def test_a_file_that_goes_while_it_is_loaded_is_a_wrong_file(
    server: Files, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    monkeypatch.setattr(tlscontext, "_check_readable", lambda _: None)  # it was still there then
    getattr(server, gone).unlink()
    with pytest.raises(ConfigError, match=f"{getattr(server, gone)}.*: cannot be read: No such file"):
        server_context(server.certificate, server.key, server.authority)


def test_a_key_with_a_passphrase_is_refused_and_never_asked_for(server: Files, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    subprocess.run(
        ["openssl", "pkey", "-aes256", "-passout", "pass:x", "-in", server.key, "-out", locked], check=True, timeout=10
    )
    with pytest.raises(ConfigError, match="locked: expected a key without a passphrase"):
        server_context(server.certificate, locked, server.authority)


def test_an_error_without_a_cause_speaks_for_itself() -> None:
    assert explain(RemoteProtocolError("the connection broke")) == "the connection broke"
    assert explain(ConnectionRefusedError(111, "Connection refused")) == "Connection refused"


async def test_a_peer_that_says_nothing_is_dropped(server: Files, autojump_clock: trio.testing.MockClock) -> None:
    context = server_context(server.certificate, server.key, server.authority)
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        silent = await trio.open_tcp_stream(*listener.socket.getsockname())
        served = TlsStream(await listener.accept(), context, server_side=True)
        with pytest.raises(RemoteProtocolError, match="no TLS handshake within 10 s"):
            await handshake(served)
        with trio.fail_after(5):
            assert await silent.receive_some() == b""
        await silent.aclose()


async def test_a_handshake_that_is_cancelled_leaves_no_socket_open(server: Files, client: Files) -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        tcp = await trio.open_tcp_stream(*listener.socket.getsockname())
        context = client_context(server.authority, client.certificate, client.key)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(handshake, TlsStream(tcp, context, server_hostname="localhost"))
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert tcp.socket.fileno() == -1


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.0\r\n\r\n"])
async def test_who_resets_the_connection_during_the_handshake_fails_it_and_nothing_else(
    server: Files, first: bytes
) -> None:
    context = server_context(server.certificate, server.key, server.authority)
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        with socket.create_connection(listener.socket.getsockname()) as prober:
            served = TlsStream(await listener.accept(), context, server_side=True)
            prober.sendall(first)
            prober.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close resets
        with trio.fail_after(20), pytest.raises(RemoteProtocolError):
            await handshake(served)
        assert served.transport.socket.fileno() == -1


async def two_ends(server: Files, client: Files) -> tuple[TlsStream, TlsStream]:
    """Server's and client's end of a connection that is up."""
    contexts = (
        server_context(server.certificate, server.key, client.authority),
        client_context(server.authority, client.certificate, client.key),
    )
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        theirs = TlsStream(
            await trio.open_tcp_stream(*listener.socket.getsockname()), contexts[1], server_hostname="localhost"
        )
        ours = TlsStream(await listener.accept(), contexts[0], server_side=True)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.do_handshake)
            nursery.start_soon(theirs.do_handshake)
    return ours, theirs


async def test_a_record_that_somebody_changed_ends_the_connection_with_openssls_words(
    server: Files, client: Files
) -> None:
    ours, theirs = await two_ends(server, client)
    async with ours, theirs:
        forged = b"\x17\x03\x03\x00\x20" + bytes(32)  # application data whose tag is wrong
        with trio.fail_after(20):
            await theirs.transport.send_all(forged)
            with pytest.raises(trio.BrokenResourceError, match=r"TLS failed: [A-Za-z_ ]{5,}$") as caught:
                await ours.receive_some()
    assert explain(caught.value) == str(caught.value)
    assert "None" not in str(caught.value)


async def test_megabytes_cross_both_ways_at_once_while_nobody_hurries_to_read(server: Files, client: Files) -> None:
    ours, theirs = await two_ends(server, client)
    much = bytes(range(256)) * 16_384
    received: dict[TlsStream, bytearray] = {ours: bytearray(), theirs: bytearray()}

    async def read(stream: TlsStream) -> None:
        while len(received[stream]) < len(much):
            received[stream] += await stream.receive_some()

    async with ours, theirs:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for stream in (ours, theirs):
                    nursery.start_soon(stream.send_all, much)
                await trio.testing.wait_all_tasks_blocked()
                for stream in (ours, theirs):
                    nursery.start_soon(read, stream)
    assert received == {ours: bytearray(much), theirs: bytearray(much)}


async def test_what_is_read_in_parts_is_neither_lost_nor_waited_for(server: Files, client: Files) -> None:
    ours, theirs = await two_ends(server, client)
    async with ours, theirs:
        ours.send_now(b"one record")
        ours.send_now(b", another")
        received = b""
        with trio.fail_after(5):
            while len(received) < len(b"one record, another"):
                received += await theirs.receive_some(3)
    assert received == b"one record, another"


async def test_a_goodbye_is_an_end_and_a_cut_connection_is_not(server: Files, client: Files) -> None:
    ours, theirs = await two_ends(server, client)
    ours.send_now(b"last words")
    await ours.aclose()
    assert await theirs.receive_some() == b"last words"
    assert await theirs.receive_some() == b""
    await theirs.aclose()
    ours, theirs = await two_ends(server, client)
    await ours.transport.aclose()  # without goodbye: anybody between us could do that
    with pytest.raises(trio.BrokenResourceError):
        await theirs.receive_some()
    await theirs.aclose()


async def test_bytes_that_are_not_tls_break_the_connection(server: Files, client: Files) -> None:
    ours, theirs = await two_ends(server, client)
    ours.transport.send_now(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(trio.BrokenResourceError) as broken:
        await theirs.receive_some()
    assert "TLS" in explain(broken.value)
    await ours.aclose()
    await theirs.aclose()


@pytest.mark.parametrize("reads", [True, False])
async def test_who_asks_for_new_keys_again_and_again_and_reads_no_answer_is_cut_off(server: Files, reads: bool) -> None:
    context = server_context(server.certificate, server.key, server.authority)
    context.verify_mode = ssl.CERT_NONE
    ours, theirs = trio.socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    stream, client = TlsStream(trio.SocketStream(ours), context, server_side=True), KeyChanger()
    told: list[str] = []

    async def serve() -> None:
        await stream.do_handshake()
        try:
            await stream.receive_some()
        except trio.BrokenResourceError as error:
            told.append(str(error))
        await stream.aclose()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            data, is_done = client.shake_hands(b"")
            while not is_done:
                await theirs.send(data)
                data, is_done = client.shake_hands(await theirs.recv(65_536))
            await theirs.send(data)
            for _ in range(200):
                with contextlib.suppress(OSError):  # cut off
                    await theirs.send(client.change_keys(20))
                    await (theirs.recv(65_536) if reads else trio.testing.wait_all_tasks_blocked())
            theirs.close()
    client.close()
    assert stream.unsent < 10_000
    assert (told == ["the peer asks for new keys again and again, and reads no answer"]) is not reads


async def test_while_a_peer_asks_for_new_keys_others_are_heard(server: Files) -> None:
    context = server_context(server.certificate, server.key, server.authority)
    context.verify_mode = ssl.CERT_NONE
    ours, theirs = trio.socket.socketpair()
    stream, client = TlsStream(trio.SocketStream(ours), context, server_side=True), KeyChanger()
    turns = 0
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.do_handshake)
            data, is_done = client.shake_hands(b"")
            while not is_done:
                await theirs.send(data)
                data, is_done = client.shake_hands(await theirs.recv(65_536))
            await theirs.send(data)
        storm = client.change_keys(2000)
        assert await theirs.send(storm) == len(storm)
        theirs.shutdown(socket.SHUT_WR)
        async with trio.open_nursery() as nursery:

            async def take_turns() -> None:
                nonlocal turns
                while True:
                    await trio.lowlevel.checkpoint()
                    turns += 1

            nursery.start_soon(take_turns)
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
            nursery.cancel_scope.cancel()
    theirs.close()
    client.close()
    await stream.aclose()
    assert turns > len(storm) / 2048
