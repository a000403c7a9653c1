"""Why no oracle gave an answer."""

from agentproxy.protocol.codes import RejectionCode
from agentproxy.protocol.errors import BlindOracleError

__all__ = ["DeadlineError", "LinkLostError", "RejectedError", "UnreachableError"]

_REJECTIONS = {
    RejectionCode.VERSION: "the oracle speaks another version of the protocol",
    RejectionCode.CERTIFICATE_UNKNOWN: "the oracle does not know this certificate",
    RejectionCode.CERTIFICATE_EXPIRED: "this certificate has expired",
    RejectionCode.CERTIFICATE_REVOKED: "this certificate was revoked",
    RejectionCode.TOKEN_REVOKED: "this token was revoked",
    RejectionCode.TOKEN_UNKNOWN: "the oracle does not know this token",
    RejectionCode.TOKEN_EXPIRED: "this token has expired",
    RejectionCode.TOKEN_OF_ANOTHER_RUNNER: "token and certificate belong to two different runners",
    RejectionCode.RUNNER_DISABLED: "the oracle's registry has this runner disabled",
    RejectionCode.RUNNER_UNKNOWN: "the oracle's policy does not name this runner",
    RejectionCode.ADDRESS_FORBIDDEN: "this runner may not connect from this address",
    RejectionCode.NOT_OPERATIONAL: "the oracle is not operational",
}


class LinkLostError(BlindOracleError):
    """The stream to the oracle ended or never came up; another one may work."""


class RejectedError(BlindOracleError):
    """The oracle does not take this relay; another try helps only after somebody changed something.

    Attributes:
        code: what the oracle said.
    """

    def __init__(self, code: RejectionCode) -> None:
        super().__init__(_REJECTIONS[code])
        self.code = code


class UnreachableError(BlindOracleError):
    """No oracle could be asked before the deadline, or each that was asked went away."""


class DeadlineError(BlindOracleError):
    """The oracle had the request and did not answer within the deadline."""
