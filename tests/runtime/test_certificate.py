import contextlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.certificate import expires, file_expires

AUTHORITY = trustme.CA()
# 2049 is the last year of UTCTime; the other two need GeneralizedTime.
ENDS = [datetime(year, 12, 31, 23, 59, 58, tzinfo=UTC) for year in (2027, 2049, 2050, 9999)]


def der(end: datetime) -> bytes:
    leaf = AUTHORITY.issue_cert("a.example", not_after=end)
    return x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes()).public_bytes(Encoding.DER)


@pytest.mark.parametrize("end", ENDS)
def test_the_end_is_read_as_a_library_reads_it(end: datetime) -> None:
    assert expires(der(end)) == end


def test_the_first_certificate_of_a_file_counts(tmp_path: Path) -> None:
    leaf = AUTHORITY.issue_cert("a.example", not_after=ENDS[0])
    file = tmp_path / "server.crt"
    file.write_bytes(b"a comment\n" + leaf.cert_chain_pems[0].bytes() + AUTHORITY.cert_pem.bytes())
    assert file_expires(file) == ENDS[0]


@pytest.mark.parametrize("content", [b"", b"\xff", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_holds_no_certificate_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "server.crt"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"server\.crt: expected a certificate in PEM"):
        file_expires(file)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        file_expires(tmp_path / "gone")


GOOD = der(ENDS[0])


@given(
    st.binary()
    | st.builds(lambda at, value: GOOD[:at] + bytes([value]) + GOOD[at + 1 :], st.integers(0, 200), st.integers(0, 255))
)
def test_anything_else_is_a_value_error_or_a_time(untrusted: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(expires(untrusted), datetime)


def test_every_certificate_that_was_cut_off_is_refused() -> None:
    for length in range(len(GOOD)):
        with pytest.raises(ValueError, match=r"cut off|not a certificate"):
            expires(GOOD[:length])
