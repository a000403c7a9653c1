"""What the oracle may ask of the signer, beyond the form of a message."""

import pytest

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Asserted
from agentproxy.protocol.signer_messages import TO_SIGNER
from agentproxy.protocol.signer_requests import Outcome, Record


def test_it_is_the_signer_alone_who_says_signed() -> None:
    with pytest.raises(RemoteProtocolError, match="only the signer"):
        Record(1, "sign", Outcome.SIGNED, "", Asserted(runner="build-01"))


def test_a_record_that_says_signed_is_refused_on_the_wire_too() -> None:
    honest = TO_SIGNER.encode(Record(1, "sign", Outcome.REFUSED, "", Asserted(runner="build-01")))

    with pytest.raises(RemoteProtocolError, match="only the signer"):
        TO_SIGNER.decode(honest.replace(b'"refused"', b'"signed"'))
