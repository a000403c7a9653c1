"""Why an oracle says no: the codes that a peer is told, and no more than those."""

import enum

__all__ = [
    "FailureCode",
    "RefusalCode",
    "RejectionCode",
]


class RejectionCode(enum.StrEnum):
    """Why a connection ends: at `hello`, or later, when its credentials no longer hold."""

    VERSION = "version"
    CERTIFICATE_UNKNOWN = "certificate_unknown"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_REVOKED = "certificate_revoked"
    TOKEN_UNKNOWN = "token_unknown"  # noqa: S105  a code, not a token
    TOKEN_EXPIRED = "token_expired"  # noqa: S105
    TOKEN_REVOKED = "token_revoked"  # noqa: S105
    TOKEN_OF_ANOTHER_RUNNER = "token_of_another_runner"  # noqa: S105
    RUNNER_DISABLED = "runner_disabled"
    RUNNER_UNKNOWN = "runner_unknown"
    ADDRESS_FORBIDDEN = "address_forbidden"
    NOT_OPERATIONAL = "not_operational"


class RefusalCode(enum.StrEnum):
    """Why the policy said no."""

    FORBIDDEN = "forbidden"
    KEY_UNKNOWN = "key_unknown"
    HASH_FORBIDDEN = "hash_forbidden"
    DISTRIBUTION_FORBIDDEN = "distribution_forbidden"
    DISTRIBUTION_MISSING = "distribution_missing"
    RATE_LIMITED = "rate_limited"
    QUEUE_FULL = "queue_full"
    DEADLINE_PASSED = "deadline_passed"
    ID_REUSED = "id_reused"


class FailureCode(enum.StrEnum):
    """Why there is no signature although the policy allowed it."""

    BACKEND = "backend"
    KEY_UNAVAILABLE = "key_unavailable"
    BAD_SIGNATURE = "bad_signature"
    NOT_OPERATIONAL = "not_operational"
    INTERNAL = "internal"
