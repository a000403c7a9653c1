"""The real keys, for a command that judges a policy by them: asked of the running signer, or opened as it would."""

from datetime import UTC, datetime

from agentproxy.admin.layout import load_signer
from agentproxy.admin.signeraccess import ask
from agentproxy.oracle.config import OracleConfig
from agentproxy.oracle.signerlink import SignerError
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.fields import KeyFacts
from agentproxy.protocol.signer_answers import Keys
from agentproxy.protocol.signer_requests import ListKeys
from agentproxy.protocol.values import frozen
from agentproxy.signer.keyring import open_keyring

__all__ = ["ServedKeys", "served_keys"]


@frozen
class ServedKeys:
    """The keys, and how far they are known."""

    keys: tuple[KeyFacts, ...]
    source: str  # "signer", "keys file", or empty: they are not known
    trouble: str = ""  # why they are not

    @property
    def are_known(self) -> bool:
        """Whether `keys` is the truth rather than nothing."""
        return bool(self.source)


def served_keys(oracle: OracleConfig) -> ServedKeys:
    """Ask the signer; when none answers, open its keys for a moment, where we may. It may take seconds then."""
    try:
        answer = ask(oracle.signer.socket, ListKeys(0))
        if isinstance(answer, Keys):
            return ServedKeys(answer.keys, "signer")
        trouble = f"the signer answered {answer.tag} for its keys"
    except (SignerError, ConfigError) as error:
        trouble = str(error)
    if oracle.signer.config is None or not oracle.signer.start:
        return ServedKeys((), "", trouble)
    try:
        keyring = open_keyring(load_signer(oracle), datetime.now(UTC))
    except ConfigError as error:
        return ServedKeys((), "", str(error))
    return ServedKeys(tuple(keyring.facts.values()), "keys file")
