import pytest

from agentproxy.protocol.codes import RejectionCode
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.messages import FROM_ORACLE, FROM_RELAY
from agentproxy.protocol.oracle_messages import Rejected

SIGN = '{"type":"sign","id":"%s","keygrip":"%s","digest":{"algorithm":8,"value":"%s"},"remaining_ms":1,"claims":%s}'


@pytest.mark.parametrize(
    "claims", ["[]", '""', '{"commands":"gpg"}', '{"commands":{"gpg":1}}', '{"job":[]}', '{"job":"x"}', "0", "false"]
)
def test_only_lists_become_tuples_and_only_objects_become_dataclasses(claims: str) -> None:
    message = SIGN % ("0" * 32, "AB" * 20, "00" * 32, claims)
    with pytest.raises(RemoteProtocolError):
        FROM_RELAY.decode(message.encode())


@pytest.mark.parametrize("code", ['"no such code"', '"REFUSED"', "1", "null", '["version"]'])
def test_a_code_that_is_not_in_the_enumeration_is_refused(code: str) -> None:
    with pytest.raises(RemoteProtocolError):
        FROM_ORACLE.decode(b'{"type":"rejected","code":%s}' % code.encode())
    assert FROM_ORACLE.decode(b'{"type":"rejected","code":"version"}') == Rejected(RejectionCode.VERSION)
