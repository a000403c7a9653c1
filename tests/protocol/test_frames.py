import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentproxy.protocol.errors import LocalProtocolError, RemoteProtocolError
from agentproxy.protocol.frames import MAX_PAYLOAD, FrameReader, encode_frame


def payloads_of(*chunks: bytes) -> list[bytes]:
    reader, payloads = FrameReader(), []
    for chunk in chunks:
        reader.receive_data(chunk)
        while (payload := reader.next_payload()) is not None:
            payloads.append(payload)
    return payloads


FRAMES = [
    (b"", []),
    (b"\x00\x00\x00\x01a", [b"a"]),
    (b"\x00\x00\x00\x01a\x00\x00\x00\x02bc", [b"a", b"bc"]),
    (b"\x00\x00\x00\x04\x00\x00\x00\x01", [b"\x00\x00\x00\x01"]),
    (b"\x00\x00\x00\x01a\x00\x00\x00", [b"a"]),
    (b"\x00\x00\x00\x02a", []),
]


@pytest.mark.parametrize(("received", "payloads"), FRAMES)
def test_frames_come_out_the_same_whole_and_byte_by_byte(received: bytes, payloads: list[bytes]) -> None:
    assert payloads_of(received) == payloads
    assert payloads_of(*(bytes([byte]) for byte in received)) == payloads
    whole = b"".join(map(encode_frame, payloads))
    assert received.startswith(whole)


def test_the_longest_payload_fits() -> None:
    payload = b"x" * MAX_PAYLOAD
    assert payloads_of(encode_frame(payload) * 2) == [payload] * 2


@pytest.mark.parametrize(
    "header", [b"\x00\x00\x00\x00", b"\x00\x01\x00\x01", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\xff\xff\xff\xff"]
)
def test_a_length_out_of_bounds_is_refused_before_the_payload_comes(header: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        payloads_of(header)
    with pytest.raises(RemoteProtocolError):
        payloads_of(b"\x00\x00\x00\x01a" + header[:3], header[3:])


@pytest.mark.parametrize("payload", [b"", b"x" * (MAX_PAYLOAD + 1)])
def test_payloads_that_do_not_fit_are_not_sent(payload: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        encode_frame(payload)


def test_a_reader_knows_whether_a_frame_is_cut() -> None:
    reader = FrameReader()
    assert reader.is_empty
    reader.receive_data(b"\x00")
    assert not reader.is_empty
    reader.receive_data(b"\x00\x00\x01a")
    assert not reader.is_empty
    assert reader.next_payload() == b"a"
    assert reader.is_empty


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.integers(1, 50))
def test_any_payloads_in_any_pieces_arrive_in_order(payloads: list[bytes], size: int) -> None:
    stream = b"".join(map(encode_frame, payloads))
    assert payloads_of(*(stream[at : at + size] for at in range(0, len(stream), size))) == payloads


@given(st.binary(max_size=300))
def test_any_bytes_are_frames_or_a_remote_error(received: bytes) -> None:
    try:
        payloads = payloads_of(received)
    except RemoteProtocolError:
        return
    assert received.startswith(b"".join(map(encode_frame, payloads)))
