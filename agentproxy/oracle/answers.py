"""What a relay hears when a request came to nothing: a code, and of a refusal the reason."""

from agentproxy.oracle.signerlink import SignerError
from agentproxy.protocol.codes import FailureCode, RefusalCode
from agentproxy.protocol.errors import (
    BackendError,
    BlindOracleError,
    KeyUnavailableError,
    LimitedError,
    RefusedError,
)
from agentproxy.protocol.fields import MAX_CLAIM
from agentproxy.protocol.messages import FromOracle
from agentproxy.protocol.oracle_messages import Failed, Refused

__all__ = ["failure_of"]


def failure_of(request_id: str, error: BlindOracleError) -> FromOracle:
    """The answer to a request that ended with this error."""
    reason = str(error)[:MAX_CLAIM]  # it may name as many keys as a policy has
    match error:
        case LimitedError():
            return Refused(request_id, RefusalCode(error.code), reason, error.retry_after_ms)
        case RefusedError():
            return Refused(request_id, RefusalCode(error.code), reason)
        case SignerError():
            return Failed(request_id, error.code, error.retryable)
        case KeyUnavailableError():
            return Failed(request_id, FailureCode.KEY_UNAVAILABLE, retryable=False)
        case BackendError():
            return Failed(request_id, FailureCode.BACKEND, retryable=True)
        case _:
            return Failed(request_id, FailureCode.INTERNAL, retryable=False)
