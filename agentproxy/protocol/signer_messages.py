"""Which messages travel between the oracle (or the operator's command line) and the signer, and in which direction."""

from agentproxy.protocol.seal_messages import SealState, StateSealed
from agentproxy.protocol.signer_answers import (
    CheckpointTaken,
    CredentialRecords,
    DigestSigned,
    HeadCompared,
    Issued,
    Keys,
    NotDone,
    Recorded,
    StatusReport,
)
from agentproxy.protocol.signer_requests import (
    CompareHead,
    Issue,
    ListCredentialRecords,
    ListKeys,
    Record,
    SignDigest,
    Status,
    TakeCheckpoint,
)
from agentproxy.protocol.wire import MessageCodec

__all__ = ["FROM_SIGNER", "TO_SIGNER", "FromSigner", "ToSigner"]

ToSigner = (
    ListKeys | SignDigest | SealState | Record | Issue | ListCredentialRecords | CompareHead | TakeCheckpoint | Status
)
FromSigner = (
    Keys
    | DigestSigned
    | StateSealed
    | Recorded
    | Issued
    | CredentialRecords
    | HeadCompared
    | CheckpointTaken
    | StatusReport
    | NotDone
)

TO_SIGNER: MessageCodec[ToSigner] = MessageCodec(
    ListKeys, SignDigest, SealState, Record, Issue, ListCredentialRecords, CompareHead, TakeCheckpoint, Status
)
FROM_SIGNER: MessageCodec[FromSigner] = MessageCodec(
    Keys,
    DigestSigned,
    StateSealed,
    Recorded,
    Issued,
    CredentialRecords,
    HeadCompared,
    CheckpointTaken,
    StatusReport,
    NotDone,
)
