"""What the oracle may ask of the signer, beyond the form of a message."""

from datetime import UTC, datetime

import pytest

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Asserted
from agentproxy.protocol.frames import MAX_PAYLOAD
from agentproxy.protocol.signer_answers import CredentialRecord, CredentialRecords
from agentproxy.protocol.signer_messages import FROM_SIGNER, TO_SIGNER
from agentproxy.protocol.signer_requests import SIGNERS_OWN, Outcome, Record


def test_it_is_the_signer_alone_who_says_signed() -> None:
    with pytest.raises(RemoteProtocolError, match="only the signer"):
        Record(1, "sign", Outcome.SIGNED, "", Asserted(runner="build-01"))


def test_a_record_that_says_signed_is_refused_on_the_wire_too() -> None:
    honest = TO_SIGNER.encode(Record(1, "sign", Outcome.REFUSED, "", Asserted(runner="build-01")))

    with pytest.raises(RemoteProtocolError, match="only the signer"):
        TO_SIGNER.decode(honest.replace(b'"refused"', b'"signed"'))


@pytest.mark.parametrize("operation", sorted(SIGNERS_OWN))
def test_nobody_else_writes_what_the_signer_says_of_itself(operation: str) -> None:
    with pytest.raises(RemoteProtocolError, match="only the signer"):
        Record(1, operation, Outcome.DONE, "", Asserted(channel="signer"))


def test_details_that_no_later_answer_could_tell_are_refused() -> None:
    def record(characters: int) -> Record:
        details = {f"d{number}": "\u00e9" * characters for number in range(30)}
        return Record(1, "runner_added", Outcome.DONE, "", Asserted(), details=details)

    told = CredentialRecord(2**62, datetime.now(UTC), "credentials_issued", record(180).details)
    answer = CredentialRecords(2**62, "n" * 64, (told,), 2**62, 2**62)
    assert len(FROM_SIGNER.encode(answer)) < MAX_PAYLOAD
    with pytest.raises(RemoteProtocolError, match="details"):
        record(1000)
