import pytest

from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.config import parse
from relay.homes import Homes
from relay.yamltext import quoted


@pytest.mark.parametrize(
    "text",
    [
        "/srv/h\u00f6me",
        "/srv/\U0001f600",
        "/srv/\U0010ffff\uffff\ufffe",
        '/a "b" \\c',
        "/a\tb\nc\x7f\x85\u2028",
        "/ # 'x': [",
        "".join(map(chr, range(1, 256))),
    ],
)
def test_what_is_written_is_read_back(text: str) -> None:
    assert quoted(text).isascii()
    read = parse(f"cert_stores:\n  - {quoted(text)}\n", Homes, "test")
    assert [str(one) for one in read.cert_stores] == [text]


def test_bytes_that_are_no_text_are_refused_by_their_name() -> None:
    with pytest.raises(ConfigError, match=r"/srv/\\xff\\xe9: is no UTF-8, and cannot stand"):
        quoted("/srv/\udcff\udce9")
