import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentproxy.protocol.assuan import (
    MAX_LINE,
    Command,
    Data,
    Err,
    Inquire,
    LineReader,
    Ok,
    ReplyLine,
    ReplyReader,
    StatusLine,
    data_lines,
    encode_command,
    escape,
    ok_line,
    parse_command,
    status_line,
    unescape,
    unescape_leniently,
)
from agentproxy.protocol.errors import LocalProtocolError, RemoteProtocolError


def lines_of(*chunks: bytes) -> list[bytes]:
    reader, lines = LineReader(), []
    for chunk in chunks:
        reader.receive_data(chunk)
        while (line := reader.next_line()) is not None:
            lines.append(line)
    return lines


def replies_of(*chunks: bytes) -> list[ReplyLine]:
    reader, replies = ReplyReader(), []
    for chunk in chunks:
        reader.receive_data(chunk)
        while (reply := reader.next_reply()) is not None:
            replies.append(reply)
    return replies


LINES = [
    (b"", []),
    (b"NOP\n", [b"NOP"]),
    (b"NOP\r\n", [b"NOP"]),
    (b"NOP\r\r\n", [b"NOP\r"]),
    (b"a\rb\n", [b"a\rb"]),
    (b"\n\n", [b"", b""]),
    (b"\r\n", [b""]),
    (b"RESET\nNOP\nhalf", [b"RESET", b"NOP"]),
    (b"D a\x00b\n", [b"D a\x00b"]),
    (b"x" * 1000 + b"\n", [b"x" * 1000]),
    (b"x" * 1001 + b"\n", [b"x" * 1001]),
    (b"x" * 1000 + b"\r\n", [b"x" * 1000]),
]


@pytest.mark.parametrize(("received", "lines"), LINES)
def test_lines_come_out_the_same_whole_and_byte_by_byte(received: bytes, lines: list[bytes]) -> None:
    assert lines_of(received) == lines
    assert lines_of(*(bytes([byte]) for byte in received)) == lines


@pytest.mark.parametrize("received", [b"x" * 1002, b"x" * 1002 + b"\n", b"x" * 1001 + b"\r\n", b"x" * (1 << 20)])
def test_a_line_of_1003_bytes_is_refused_before_its_newline_comes(received: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="1002"):
        lines_of(received)
    with pytest.raises(RemoteProtocolError, match="1002"):
        lines_of(*(bytes([byte]) for byte in received[:2000]))


def test_lines_before_one_that_is_too_long_are_still_given_out() -> None:
    reader = LineReader()
    reader.receive_data(b"NOP\n" + b"x" * 2000)
    assert reader.next_line() == b"NOP"
    with pytest.raises(RemoteProtocolError):
        reader.next_line()


COMMANDS = [
    (b"NOP", Command("NOP", b"", {}, ())),
    (b"nop", Command("NOP", b"", {}, ())),
    (b"NOP ", Command("NOP", b"", {}, ())),
    (b"GETINFO\tversion", Command("GETINFO", b"version", {}, ("version",))),
    (b"READKEY -- AB", Command("READKEY", b"-- AB", {}, ("AB",))),
    (b"READKEY -- --x", Command("READKEY", b"-- --x", {}, ("--x",))),
    (b"PASSWD  --verify AB", Command("PASSWD", b"--verify AB", {"verify": ""}, ("AB",))),
    (b"HAVEKEY --list=1000", Command("HAVEKEY", b"--list=1000", {"list": "1000"}, ())),
    (b"SETHASH 8  AB ", Command("SETHASH", b"8  AB ", {}, ("8", "AB"))),
    (b"SIGKEY \xff\x00", Command("SIGKEY", b"\xff\x00", {}, ("\\xff\x00",))),
    (b"\xdf\xff x", Command("\\XDF\\XFF", b"x", {}, ("x",))),
]


@pytest.mark.parametrize(("line", "command"), COMMANDS)
def test_a_command_line_reads_as(line: bytes, command: Command) -> None:
    assert parse_command(line) == command


@pytest.mark.parametrize("line", [b"", b"#", b"# a comment"])
def test_empty_lines_and_comments_are_no_commands(line: bytes) -> None:
    assert parse_command(line) is None


@pytest.mark.parametrize("line", [b" NOP", b"\tNOP", b" "])
def test_a_leading_blank_is_an_error(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_command(line)


ESCAPES = [(b"", b""), (b"%", b"%25"), (b"\r\n", b"%0D%0A"), (b"\x00\xff", b"\x00\xff"), (b"%25", b"%2525")]


@pytest.mark.parametrize(("plain", "escaped"), ESCAPES)
def test_escapes_both_ways(plain: bytes, escaped: bytes) -> None:
    assert escape(plain) == escaped
    assert unescape(escaped) == plain
    assert unescape_leniently(escaped) == plain


@pytest.mark.parametrize(("escaped", "plain"), [(b"%0a%0d", b"\n\r"), (b"%41", b"A"), (b"%00", b"\x00")])
def test_other_escapes_are_read_too(escaped: bytes, plain: bytes) -> None:
    assert unescape(escaped) == plain


@pytest.mark.parametrize("cut", [b"%", b"%0", b"%zz", b"a%", b"%+1", b"% 1", b"%0x"])
def test_a_cut_escape_is_an_error_in_data_and_stays_in_texts(cut: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        unescape(cut)
    assert unescape_leniently(cut) == cut


REPLIES = [
    (b"OK\n", [Ok()]),
    (b"OK closing connection\n", [Ok(b"closing connection")]),
    (b"ERR 67108881 No secret key <GPG Agent>\n", [Err(67108881, b"No secret key <GPG Agent>")]),
    (b"ERR 1\n", [Err(1)]),
    (b"D 2.4.7\nOK\n", [Data(b"2.4.7"), Ok()]),
    (b"D a%0Ab%25\nOK\n", [Data(b"a\nb%"), Ok()]),
    (b"S KEYINFO AB D - - - C - - -\n", [StatusLine("KEYINFO", b"AB D - - - C - - -")]),
    (b"S PROGRESS\n", [StatusLine("PROGRESS")]),
    (b"INQUIRE TBSDATA\n", [Inquire("TBSDATA")]),
    (b"INQUIRE PINENTRY_LAUNCHED 1 x\n", [Inquire("PINENTRY_LAUNCHED", b"1 x")]),
    (b"# note\n\nOK\n", [Ok()]),
]


@pytest.mark.parametrize(("received", "replies"), REPLIES)
def test_replies_read_the_same_whole_and_byte_by_byte(received: bytes, replies: list[ReplyLine]) -> None:
    assert replies_of(received) == replies
    assert replies_of(*(bytes([byte]) for byte in received)) == replies


@pytest.mark.parametrize(
    "line",
    [b"ok", b"OKAY", b"ERR", b"ERR x", b"ERR 1_0", b"ERR -1", b"ERR 99999999999", b"D %", b"S", b"S \xff", b"GO"],
)
def test_what_no_agent_says_is_an_error(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        replies_of(line + b"\n")


@pytest.mark.parametrize("payload", [b"", b"a", b"%" * 1000, b"\n" * 5000, bytes(range(256)) * 9, b"x" * 997 + b"%%"])
def test_data_of_any_length_arrives_in_lines_that_every_client_can_read(payload: bytes) -> None:
    encoded = data_lines(payload)
    assert all(len(line) <= 1000 for line in encoded.split(b"\n"))
    assert b"".join(reply.data for reply in replies_of(encoded) if isinstance(reply, Data)) == payload


def test_lines_of_ours_that_would_be_two_or_too_long_are_not_sent() -> None:
    assert status_line("KEYINFO", "x") == b"S KEYINFO x\n"
    assert ok_line() == b"OK\n"
    assert encode_command("SIGKEY", "AB") == b"SIGKEY AB\n"
    for text in ("x\ny", "x\ry", "x" * MAX_LINE):
        with pytest.raises(LocalProtocolError):
            encode_command("SETKEYDESC", text)
        with pytest.raises(LocalProtocolError):
            ok_line(text)


@given(st.binary(max_size=3000))
def test_any_bytes_are_data_after_escaping(payload: bytes) -> None:
    assert b"".join(reply.data for reply in replies_of(data_lines(payload)) if isinstance(reply, Data)) == payload


@given(st.lists(st.binary(max_size=1500), max_size=6))
def test_any_bytes_are_commands_or_a_remote_error(chunks: list[bytes]) -> None:
    try:
        for line in lines_of(*chunks):
            command = parse_command(line)
            assert command is None or (command.options is not None and command.arguments is not None)
    except RemoteProtocolError:
        pass


LIKELY_REPLIES = st.sampled_from([b"OK ", b"ERR ", b"S ", b"D ", b"INQUIRE ", b"#", b"%0", b"A", b"\n", b"9", b" "])


@given(st.lists(st.one_of(LIKELY_REPLIES, st.binary(max_size=4)), max_size=20).map(b"".join))
def test_any_bytes_are_replies_or_a_remote_error(received: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        replies_of(received)
