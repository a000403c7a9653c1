"""Conversations: what gpg sends, what the session answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import LocalProtocolError
from agentproxy.protocol.gpgerror import GpgError, err_line
from agentproxy.protocol.keys import Curve, EccPublicKey, PublicKey, RsaPublicKey
from agentproxy.protocol.signatures import EddsaSignature, RsaSignature
from relay.session import Close, Event, HashRefused, Reply, Session, SessionKey, SignNeeded

SHA2 = frozenset({HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512})


def session_key(public_key: PublicKey, algorithms: frozenset[HashAlgorithm] = SHA2) -> SessionKey:
    return SessionKey(public_key.keygrip, public_key, algorithms)


MODERN = session_key(EccPublicKey(Curve.ED25519, bytes(range(32))))
LEGACY = session_key(RsaPublicKey(b"\x80" + bytes(255), b"\x01\x00\x01"), SHA2 | {HashAlgorithm.SHA1})
GRIP, LEGACY_GRIP, STRANGER = str(MODERN.keygrip), str(LEGACY.keygrip), "00" * 20
DIGEST = Digest(HashAlgorithm.SHA256, b"\x11" * 32)
HEX = "11" * 32
SHA1 = "22" * 20

OK = b"OK\n"
SIGN = SignNeeded(MODERN.keygrip, DIGEST)

Answer = bytes | GpgError | SignNeeded | None
Conversation = list[tuple[str | bytes, Answer]]


def new_session() -> Session:
    return Session((MODERN, LEGACY))


def answered(event: Event) -> Answer:
    if isinstance(event, Reply):
        codes = [code for code in GpgError if err_line(code) == event.data]
        return codes[0] if codes else event.data
    assert isinstance(event, SignNeeded)
    return event


def hold(session: Session, conversation: Conversation) -> None:
    for sent, expected in conversation:
        line = sent if isinstance(sent, bytes) else sent.encode()
        events = session.receive(line + b"\n")
        if expected is None:
            assert events == [], sent
            continue
        assert [answered(event) for event in events] == [expected], sent
        if isinstance(events[0], SignNeeded):
            session.failed(GpgError.NETWORK)
        if isinstance(expected, GpgError) and expected is not GpgError.FALSE:
            assert isinstance(events[0], Reply)
            assert events[0].reason
            assert events[0].reason.isprintable()


KEYINFO = f"S KEYINFO {GRIP} D - - - C - - -\n".encode()
KEYINFO_LEGACY = f"S KEYINFO {LEGACY_GRIP} D - - - C - - -\n".encode()

LOCAL_ANSWERS: Conversation = [
    ("", None),
    ("# note", None),
    ("NOP", OK),
    ("nop", OK),
    ("NOP \t", OK),
    ("RESET", OK),
    ("RELOADAGENT", OK),
    (" NOP", GpgError.SYNTAX),
    ("\tNOP", GpgError.SYNTAX),
    ("OPTION ttytype=xterm", OK),
    ("OPTION ttyname /dev/pts/0", OK),
    ("OPTION --display=:1", OK),
    ("OPTION lc-ctype = C.UTF-8", OK),
    ("OPTION lc-messages=C", OK),
    ("OPTION xauthority=/x", OK),
    ("OPTION putenv=LD_PRELOAD=/tmp/x.so", OK),
    ("OPTION pinentry-user-data=job=1", OK),
    ("OPTION allow-pinentry-notify", OK),
    ("OPTION agent-awareness=2.1.0", OK),
    ("OPTION pretend-request-origin=local", OK),
    *((f"OPTION pinentry-mode={mode}", OK) for mode in ("ask", "cancel", "default", "error", "loopback")),
    ("OPTION pinentry-mode=bogus", GpgError.INV_VALUE),
    ("OPTION", GpgError.SYNTAX),
    ("OPTION =x", GpgError.SYNTAX),
    ("OPTION ephemeral=1", GpgError.UNKNOWN_OPTION),
    ("OPTION \x1b[31m=1", GpgError.UNKNOWN_OPTION),
    ("GETINFO version", b"D 9.9.9\nOK\n"),
    ("getinfo version", b"D 9.9.9\nOK\n"),
    ("GETINFO restricted", GpgError.FALSE),
    ("GETINFO cmd_has_option PKSIGN foo", GpgError.FALSE),
    ("GETINFO", GpgError.PARAMETER),
    *((f"GETINFO {topic}", GpgError.FORBIDDEN) for topic in ("pid", "socket_name", "s2k_count", "jent_active")),
    (f"HAVEKEY {GRIP}", OK),
    (f"HAVEKEY {GRIP.lower()}", OK),
    (f"HAVEKEY {STRANGER} {LEGACY_GRIP}", OK),
    (f"HAVEKEY {STRANGER} {STRANGER}", GpgError.NO_SECKEY),
    ("HAVEKEY", GpgError.PARAMETER),
    ("HAVEKEY zz", GpgError.PARAMETER),
    (f"HAVEKEY {GRIP}00", GpgError.PARAMETER),
    (f"HAVEKEY --info {GRIP}", GpgError.FORBIDDEN),
    ("HAVEKEY --list=1", GpgError.TRUNCATED),
    ("HAVEKEY --list=-1", GpgError.PARAMETER),
    ("HAVEKEY --list=1_0", GpgError.PARAMETER),
    (f"HAVEKEY --list {GRIP}", GpgError.FORBIDDEN),
    (f"KEYINFO {GRIP}", KEYINFO + OK),
    (f"KEYINFO {STRANGER}", GpgError.NOT_FOUND),
    ("KEYINFO --list", KEYINFO + KEYINFO_LEGACY + OK),
    ("KEYINFO", GpgError.PARAMETER),
    ("KEYINFO zz", GpgError.PARAMETER),
    ("KEYINFO --ssh-list", GpgError.FORBIDDEN),
    (f"KEYINFO --ssh-fpr {GRIP}", GpgError.FORBIDDEN),
    (f"READKEY -- {STRANGER}", GpgError.NOT_FOUND),
    (f"READKEY --ssh-fpr {GRIP}", GpgError.FORBIDDEN),
    (f"READKEY --card {GRIP}", GpgError.FORBIDDEN),
    ("READKEY", GpgError.PARAMETER),
    (f"SIGKEY {GRIP}", OK),
    (f"SIGKEY {GRIP.lower()}", OK),
    (f"SETKEY {GRIP}", OK),
    (f"SIGKEY {STRANGER}", GpgError.NO_SECKEY),
    (f"SIGKEY {GRIP} {GRIP}", GpgError.PARAMETER),
    ("SIGKEY", GpgError.PARAMETER),
    ("SIGKEY zz", GpgError.PARAMETER),
    ("SIGKEY " + "0_" * 20, GpgError.PARAMETER),
    ("SETKEYDESC Please+enter%0A%22", OK),
    ("SETKEYDESC cut inside an escape %0", OK),
    (b"SETKEYDESC \x00\x07\x1b[31m\rERROR\xff%zz%", OK),
    ("ISTRUSTED " + STRANGER, GpgError.NOT_TRUSTED),
    ("SCD SERIALNO", GpgError.NOT_SUPPORTED),
    ("SCD GETINFO version", GpgError.NOT_SUPPORTED),
    ("BOGUS", GpgError.UNKNOWN_COMMAND),
    ("INQUIRE TBSDATA", GpgError.UNKNOWN_COMMAND),
    (b"\xff\xfe", GpgError.UNKNOWN_COMMAND),
    (b"\x00\x1b[0m", GpgError.UNKNOWN_COMMAND),
    (b"NOP\x00", GpgError.UNKNOWN_COMMAND),
    *((command, GpgError.NOT_IMPLEMENTED) for command in ("D x", "D", "END", "CAN", "CANCEL", "AUTH", "HELP PKSIGN")),
    ("INPUT FD=3", GpgError.NOT_IMPLEMENTED),
    ("OUTPUT FD", GpgError.NOT_IMPLEMENTED),
]

FORBIDDEN = (
    "CLEAR_PASSPHRASE x",
    f"DELETE_KEY {GRIP}",
    f"EXPORT_KEY  {GRIP}",
    "GENKEY",
    "GETEVENTCOUNTER",
    "GETVAL x",
    "GET_CONFIRMATION x",
    "GET_PASSPHRASE x",
    "GET_SECRET x",
    "IMPORT_KEY",
    f"KEYATTR {GRIP}",
    f"KEYTOCARD {GRIP} 1 1",
    f"KEYTOTPM {GRIP}",
    "KEYWRAP_KEY --export",
    "KEYWRAP_KEY --import",
    "KILLAGENT",
    "LEARN --sendinfo",
    "learn",
    "LISTTRUSTED",
    "MARKTRUSTED x",
    f"PASSWD {GRIP}",
    f"PASSWD  --verify {GRIP}",
    "PKDECRYPT",
    "PKDECRYPT --kem=CMS",
    "PRESET_PASSPHRASE x -1",
    "PUTVAL x y",
    "PUT_SECRET x",
    "UPDATESTARTUPTTY",
)


@pytest.mark.parametrize(("sent", "answer"), [*LOCAL_ANSWERS, *((sent, GpgError.FORBIDDEN) for sent in FORBIDDEN)])
def test_a_command_is_answered_at_once_and_the_next_one_too(sent: str | bytes, answer: Answer) -> None:
    hold(new_session(), [(sent, answer), ("NOP", OK)])


def test_the_list_of_keys_is_binary_keygrips() -> None:
    expected = MODERN.keygrip.value + LEGACY.keygrip.value
    escaped = expected.replace(b"%", b"%25").replace(b"\r", b"%0D").replace(b"\n", b"%0A")
    for sent in (b"HAVEKEY --list\n", b"HAVEKEY --list=2\n", b"HAVEKEY --list=1000\n"):
        assert new_session().receive(sent) == [Reply(b"D " + escaped + b"\nOK\n")]


def test_without_keys_the_list_is_empty_and_nothing_can_be_chosen() -> None:
    hold(Session(()), [("HAVEKEY --list=1000", OK), ("KEYINFO --list", OK), (f"SIGKEY {GRIP}", GpgError.NO_SECKEY)])


def test_a_public_key_reads_as_gpg_expects_it() -> None:
    for line in (f"READKEY {GRIP}\n", f"READKEY -- {GRIP}\n"):
        (event,) = new_session().receive(line.encode())
        assert isinstance(event, Reply)
        assert event.data.startswith(b"D (10:public-key(3:ecc(5:curve7:Ed25519)(5:flags5:eddsa)(1:q33:@\x00\x01")


CHOSEN: Conversation = [("RESET", OK), (f"SIGKEY {GRIP}", OK)]
READY: Conversation = [*CHOSEN, (f"SETHASH 8 {HEX}", OK)]

SIGNING: dict[str, Conversation] = {
    "the usual way": [*READY, ("PKSIGN", SIGN)],
    "with two dashes": [*READY, ("PKSIGN --", SIGN)],
    "with a nonce": [*READY, ("PKSIGN -- ABCDEF", SIGN)],
    "by the name of the hash": [*CHOSEN, (f"SETHASH --hash=sha256 {HEX}", OK), ("PKSIGN", SIGN)],
    "in lower case": [(f"sigkey {GRIP.lower()}", OK), (f"sethash 8 {HEX}", OK), ("pksign", SIGN)],
    "the digest first": [(f"SETHASH 8 {HEX}", OK), (f"SIGKEY {GRIP}", OK), ("PKSIGN", SIGN)],
    "options": [*READY, ("PKSIGN --hash=sha1", GpgError.FORBIDDEN), ("PKSIGN", GpgError.NO_DATA)],
    "arguments": [*READY, ("PKSIGN a b", GpgError.PARAMETER)],
    "no key": [("RESET", OK), (f"SETHASH 8 {HEX}", OK), ("PKSIGN", GpgError.NO_SECKEY)],
    "no digest": [*CHOSEN, ("PKSIGN", GpgError.NO_DATA)],
    "nothing at all": [("PKSIGN", GpgError.NO_SECKEY)],
    "twice": [*READY, ("PKSIGN", SIGN), ("PKSIGN", GpgError.NO_DATA)],
    "twice, with a digest each": [*READY, ("PKSIGN", SIGN), (f"SETHASH 8 {HEX}", OK), ("PKSIGN", SIGN)],
    "after RESET": [*READY, ("RESET", OK), ("PKSIGN", GpgError.NO_SECKEY)],
    "digest from before RESET": [*READY, ("RESET", OK), (f"SIGKEY {GRIP}", OK), ("PKSIGN", GpgError.NO_DATA)],
    "the last digest counts": [*CHOSEN, (f"SETHASH 10 {'33' * 64}", OK), (f"SETHASH 8 {HEX}", OK), ("PKSIGN", SIGN)],
    "the last key counts": [(f"SIGKEY {LEGACY_GRIP}", OK), *READY[1:], ("PKSIGN", SIGN)],
    "a refused digest clears": [*READY, ("SETHASH 8 00", GpgError.INV_LENGTH), ("PKSIGN", GpgError.NO_DATA)],
    "a refused key clears": [*READY, (f"SIGKEY {STRANGER}", GpgError.NO_SECKEY), ("PKSIGN", GpgError.NO_SECKEY)],
    "a malformed key clears": [*READY, ("SIGKEY zz", GpgError.PARAMETER), ("PKSIGN", GpgError.NO_SECKEY)],
    "decryption after SETKEY": [(f"SETKEY {GRIP}", OK), ("PKDECRYPT", GpgError.FORBIDDEN)],
    "SHA-1": [*CHOSEN, (f"SETHASH 2 {SHA1}", GpgError.DIGEST_ALGO), ("PKSIGN", GpgError.NO_DATA)],
    "SHA-1 by name": [*CHOSEN, (f"SETHASH --hash=sha1 {SHA1}", GpgError.DIGEST_ALGO)],
    "SHA-1 by way of another key": [
        (f"SIGKEY {LEGACY_GRIP}", OK),
        (f"SETHASH 2 {SHA1}", OK),
        (f"SIGKEY {GRIP}", OK),
        ("PKSIGN", GpgError.DIGEST_ALGO),
    ],
    "SHA-1 before the key": [(f"SETHASH 2 {SHA1}", OK), (f"SIGKEY {GRIP}", OK), ("PKSIGN", GpgError.DIGEST_ALGO)],
    "MD5": [*CHOSEN, (f"SETHASH 1 {'00' * 16}", GpgError.DIGEST_ALGO)],
    "RIPEMD-160": [*CHOSEN, (f"SETHASH 3 {SHA1}", GpgError.DIGEST_ALGO)],
    "SHA-224, which this key does not name": [*CHOSEN, (f"SETHASH 11 {'00' * 28}", GpgError.DIGEST_ALGO)],
    "SHA-1 for the key that names it": [
        (f"SIGKEY {LEGACY_GRIP}", OK),
        (f"SETHASH 2 {SHA1}", OK),
        ("PKSIGN", SignNeeded(LEGACY.keygrip, Digest(HashAlgorithm.SHA1, b"\x22" * 20))),
    ],
}


@pytest.mark.parametrize("conversation", SIGNING.values(), ids=SIGNING.keys())
def test_signing(conversation: Conversation) -> None:
    hold(new_session(), conversation)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", GpgError.PARAMETER),
        ("8", GpgError.PARAMETER),
        (f"8 {HEX} {HEX}", GpgError.PARAMETER),
        (f"8 {HEX[:-1]}", GpgError.PARAMETER),
        ("8 zz", GpgError.PARAMETER),
        (f"8 0x{HEX[2:]}", GpgError.PARAMETER),
        (f"8 {HEX[:-2]}", GpgError.INV_LENGTH),
        (f"10 {HEX}", GpgError.INV_LENGTH),
        (f"8 {'00' * 64}", GpgError.INV_LENGTH),
        (f"08 {HEX}", GpgError.DIGEST_ALGO),
        (f"+8 {HEX}", GpgError.DIGEST_ALGO),
        (f"99 {HEX}", GpgError.DIGEST_ALGO),
        (f"99999999999999999999 {HEX}", GpgError.DIGEST_ALGO),
        (f"sha256 {HEX}", GpgError.DIGEST_ALGO),
        (f"--hash=none {HEX}", GpgError.DIGEST_ALGO),
        (f"--hash=SHA256 {HEX}", GpgError.DIGEST_ALGO),
        (f"--hash=tls-md5sha1 {'00' * 36}", GpgError.DIGEST_ALGO),
        ("--hash=sha256", GpgError.PARAMETER),
        (f"--hash=sha256 8 {HEX}", GpgError.PARAMETER),
        ("--inquire", GpgError.FORBIDDEN),
        ("--pss --inquire", GpgError.FORBIDDEN),
        ("--inquire --hash=sha256", GpgError.FORBIDDEN),
        (f"--hash=sha256 --inquire {HEX}", GpgError.FORBIDDEN),
        (f"--pss 8 {HEX}", GpgError.FORBIDDEN),
    ],
)
def test_a_bad_digest_is_refused_and_leaves_none(text: str, answer: GpgError) -> None:
    hold(new_session(), [*READY, (f"SETHASH {text}", answer), ("PKSIGN", GpgError.NO_DATA)])


def signing_session() -> Session:
    session = new_session()
    hold(session, READY)
    assert session.receive(b"PKSIGN\n") == [SIGN]
    return session


def test_a_signature_is_answered_as_data() -> None:
    session = signing_session()
    reply = session.signed(EddsaSignature(b"r" * 31 + b"\n", b"s" * 31 + b"%"))
    assert reply == Reply(b"D (7:sig-val(5:eddsa(1:r32:" + b"r" * 31 + b"%0A)(1:s32:" + b"s" * 31 + b"%25)))\nOK\n")
    hold(session, [("NOP", OK)])


def test_a_signature_longer_than_a_line_is_cut_between_escapes() -> None:
    lines = signing_session().signed(RsaSignature(b"%" * 512)).data.splitlines()
    assert [line[:2] for line in lines] == [b"D ", b"D ", b"OK"]
    assert all(len(line) <= 1000 for line in lines)
    assert all(line.count(b"%") == line.count(b"%25") for line in lines)
    assert b"".join(lines).count(b"%25") == 512


def test_a_failure_is_told_with_its_code_and_reason() -> None:
    session = signing_session()
    reply = session.failed(GpgError.LIMIT_REACHED, "more than 10 a minute")
    assert reply == Reply(err_line(GpgError.LIMIT_REACHED), "more than 10 a minute")
    hold(session, [("PKSIGN", GpgError.NO_DATA)])


def test_answers_that_nobody_asked_for_are_our_bug() -> None:
    with pytest.raises(LocalProtocolError):
        new_session().signed(RsaSignature(b"\x01"))
    with pytest.raises(LocalProtocolError):
        new_session().failed(GpgError.NETWORK)


def test_commands_sent_ahead_wait_for_the_signature() -> None:
    session = new_session()
    hold(session, READY)
    assert session.receive(b"PKSIGN\nNOP\nPKSIGN\n") == [SIGN]
    assert session.receive(b"NOP\n") == []
    session.signed(EddsaSignature(bytes(32), bytes(32)))
    assert [answered(event) for event in session.receive(b"")] == [OK, GpgError.NO_DATA, OK]


def test_a_client_that_sends_ahead_without_end_is_hung_up_on() -> None:
    session = signing_session()
    for _ in range(16):
        assert session.receive(b"NOP\n" * 256) == []
    (event,) = session.receive(b"NOP\n")
    assert isinstance(event, Close)
    assert event.reason


def test_several_commands_in_one_packet_are_answered_in_order() -> None:
    events = new_session().receive(b"RESET\nBOGUS\r\nGETINFO version\nhalf a li")
    assert [answered(event) for event in events] == [OK, GpgError.UNKNOWN_COMMAND, b"D 9.9.9\nOK\n"]


def test_ten_thousand_resets_are_ten_thousand_answers() -> None:
    assert new_session().receive(b"RESET\n" * 10_000) == [Reply(OK)] * 10_000


def test_after_bye_nothing_is_answered() -> None:
    session = new_session()
    assert session.receive(b"BYE\nNOP\n") == [Close(b"OK closing connection\n")]
    assert session.receive(b"NOP\n") == []


@pytest.mark.parametrize("length", [998, 999, 1000, 1001])
def test_the_longest_lines_are_read(length: int) -> None:
    assert new_session().receive(b"SETKEYDESC " + b"x" * (length - 11) + b"\n") == [Reply(OK)]


@pytest.mark.parametrize("line", [b"SETKEYDESC " + b"x" * 991 + b"\n", b"x" * 1002, b"x" * (1 << 20)])
def test_a_longer_line_ends_the_conversation_without_an_answer(line: bytes) -> None:
    session = new_session()
    answer, close = session.receive(b"NOP\n" + line + b"\nNOP\n")
    assert answer == Reply(OK)
    assert isinstance(close, Close)
    assert session.receive(b"NOP\n") == []


def test_state_is_not_shared_between_connections() -> None:
    first, second = new_session(), new_session()
    hold(first, READY)
    hold(second, [("PKSIGN", GpgError.NO_SECKEY)])


def test_the_greeting_is_what_clients_wait_for() -> None:
    assert Session.greeting.startswith(b"OK ")


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (b"job=7;url=https://ci.example/7", "job=7;url=https://ci.example/7"),
        (b"", ""),
        ("näher".encode(), "näher"),
        (b"a\x1b[31m\x00b\xff\r", "a?[31m?b\ufffd"),
        ("a\u2028\u202eb".encode(), "a??b"),
        (b"x" * 900, "x" * 900),
    ],
)
def test_the_callers_user_data_becomes_a_printable_hint(value: bytes, hint: str) -> None:
    session = new_session()
    assert session.claims_hint == ""
    assert session.receive(b"OPTION pinentry-user-data=" + value + b"\n") == [Reply(OK)]
    hold(session, [("RESET", OK)])
    assert session.claims_hint == hint


def test_no_reason_repeats_the_value_of_an_option() -> None:
    session = new_session()
    for line in (b"OPTION pinentry-mode=s3cret", b"OPTION unknown=s3cret", b"OPTION =s3cret"):
        (event,) = session.receive(line + b"\n")
        assert isinstance(event, Reply)
        assert event.reason
        assert "s3cret" not in event.reason


WORDS = st.sampled_from(
    (
        f"SIGKEY |SETHASH |PKSIGN|RESET|8 |{HEX}|{GRIP}|OPTION |HAVEKEY |KEYINFO |READKEY |GETINFO |BYE|--|list|hash|"
        "=| |%|\r\n|\n|\n|\n"
    )
    .encode()
    .split(b"|")
)


def drained(chunks: list[bytes]) -> list[Event]:
    session, events = new_session(), list[Event]()
    for chunk in chunks:
        batch = session.receive(chunk)
        while batch:
            events += batch
            batch = []
            if isinstance(events[-1], SignNeeded):
                events.append(session.failed(GpgError.TIMEOUT, "late"))
                batch = session.receive(b"")
    return events


@given(st.lists(WORDS | st.binary(max_size=3), max_size=60).map(b"".join), st.integers(1, 40))
def test_any_bytes_get_the_same_replies_whole_and_in_pieces(received: bytes, size: int) -> None:
    whole = drained([received])
    assert whole == drained([received[at : at + size] for at in range(0, len(received), size)])
    for event in whole:
        if isinstance(event, Reply):
            assert event.data.splitlines(keepends=True)[-1].startswith((b"OK", b"ERR "))
            assert event.data.endswith(b"\n")
            assert event.reason.isprintable()


@pytest.mark.parametrize("command", [f"SETHASH 2 {SHA1}", "PKSIGN"])
def test_a_refused_hash_is_told_with_its_key_and_what_is_allowed(command: str) -> None:
    key = SessionKey(MODERN.keygrip, MODERN.public_key, SHA2, "modern")
    session = Session((key, LEGACY))
    before = [f"SIGKEY {GRIP}"] if command != "PKSIGN" else [f"SETHASH 2 {SHA1}", f"SIGKEY {GRIP}"]
    *_, event = session.receive("".join(f"{line}\n" for line in (*before, command)).encode())
    assert isinstance(event, Reply)
    assert event.data == err_line(GpgError.DIGEST_ALGO)
    word = command.partition(" ")[0]
    assert event.reason == f"{word}: SHA1 is not allowed for key modern (allowed: sha256, sha384, sha512)"
    assert event.about == HashRefused(HashAlgorithm.SHA1, key)
