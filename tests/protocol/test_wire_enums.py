"""Members of enums cross the wire as members."""

import pytest

from agentproxy.protocol.codes import FailureCode, RejectionCode
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.messages import FROM_ORACLE
from agentproxy.protocol.oracle_messages import Failed, Rejected
from agentproxy.protocol.structure import structured


def test_a_code_arrives_as_the_member_that_was_sent() -> None:
    failed = FROM_ORACLE.decode(FROM_ORACLE.encode(Failed("0" * 32, FailureCode.BACKEND, retryable=True)))
    rejected = FROM_ORACLE.decode(FROM_ORACLE.encode(Rejected(RejectionCode.VERSION)))
    assert isinstance(failed, Failed)
    assert failed.code is FailureCode.BACKEND
    assert isinstance(rejected, Rejected)
    assert rejected.code is RejectionCode.VERSION


@pytest.mark.parametrize("code", ['"bakend"', "1", "null", "[]"])
def test_a_code_that_is_no_member_is_refused(code: str) -> None:
    with pytest.raises(RemoteProtocolError):
        FROM_ORACLE.decode(b'{"type":"rejected","code":%s}' % code.encode())


@pytest.mark.parametrize(
    ("wanted", "value"), [(int, "5"), (int, True), (int, 5.0), (str, 5), (bool, 1), (FailureCode, 5)]
)
def test_a_value_of_another_type_is_refused(wanted: type, value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        structured(value, wanted)
