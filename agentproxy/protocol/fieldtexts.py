"""The JSON of what stands in every signature's messages, written out: `json` and `structure` take four times as long.

The same text as theirs, which a test holds it to. Whatever can hold a quote goes through `quoted`.
"""

import json

from agentproxy.protocol.digests import Digest
from agentproxy.protocol.fields import Asserted, Claims, Head
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.openpgp import DocumentSignature
from agentproxy.protocol.signatures import RsaSignature, Signature
from agentproxy.protocol.times import format_time

__all__ = [
    "asserted_text",
    "claims_text",
    "digest_text",
    "head_text",
    "quoted",
    "seal_text",
    "signature_text",
    "state_text",
    "texts_text",
    "wanted_text",
]

quoted = json.encoder.encode_basestring_ascii


def digest_text(digest: Digest) -> str:
    """A digest."""
    return f'{{"algorithm":{digest.algorithm:d},"value":"{digest.value.hex()}"}}'


def state_text(state: HashState) -> str:
    """The state of a hash."""
    return (
        f'{{"algorithm":{state.algorithm:d},"chaining_value":"{state.chaining_value.hex()}",'
        f'"length":{state.length},"rest":"{state.rest.hex()}"}}'
    )


def signature_text(signature: Signature) -> str:
    """A signature of any kind."""
    if isinstance(signature, RsaSignature):
        return f'{{"algorithm":"rsa","s":"{signature.s.hex()}"}}'
    return f'{{"algorithm":"{signature.algorithm}","r":"{signature.r.hex()}","s":"{signature.s.hex()}"}}'


def seal_text(seal: DocumentSignature) -> str:
    """A signature over a document."""
    return (
        f'{{"fingerprint":"{seal.fingerprint}","created":"{format_time(seal.created)}",'
        f'"digest":{digest_text(seal.digest)},"signature":{signature_text(seal.signature)}}}'
    )


def head_text(head: Head) -> str:
    """The end of a log; a node's name holds no quote."""
    return f'{{"node":"{head.node}","sequence":{head.sequence},"hash":"{head.hash.hex()}"}}'


def claims_text(claims: Claims) -> str:
    """Claims; what the relay did not see is left out. The audit log has them in this form too."""
    text = ""
    if claims.uid is not None:
        text += f',"uid":{claims.uid}'
    if claims.user is not None:
        text += f',"user":{quoted(claims.user)}'
    if claims.pid is not None:
        text += f',"pid":{claims.pid}'
    if claims.commands:
        text += f',"commands":[{",".join(map(quoted, claims.commands))}]'
    if claims.file is not None:
        text += f',"file":{quoted(claims.file)}'
    if claims.package is not None:
        text += f',"package":{quoted(claims.package)}'
    if claims.job:
        text += f',"job":{texts_text(claims.job)}'
    if claims.distributions:
        text += f',"distributions":[{",".join(map(quoted, claims.distributions))}]'
    return f"{{{text[1:]}}}"


def wanted_text(remaining_ms: int, distribution: str | None, claims: Claims | None, socket: str | None) -> str:
    """What a request for a signature ends in, whatever it is about; neither name holds a quote."""
    text = f'"remaining_ms":{remaining_ms}'
    if distribution is not None:
        text += f',"distribution":"{distribution}"'
    if claims is not None:
        text += f',"claims":{claims_text(claims)}'
    if socket is not None:
        text += f',"socket":"{socket}"'
    return text


def asserted_text(asserted: Asserted) -> str:
    """What the oracle asserts; what is as usual is left out."""
    text = ""
    if asserted.runner is not None:
        text += f',"runner":{quoted(asserted.runner)}'
    if asserted.token is not None:
        text += f',"token":{quoted(asserted.token)}'
    if asserted.certificate is not None:
        text += f',"certificate":{quoted(asserted.certificate)}'
    if asserted.address is not None:
        text += f',"address":{quoted(asserted.address)}'
    if asserted.channel != "relay":
        text += f',"channel":{quoted(asserted.channel)}'
    if asserted.distribution is not None:
        text += f',"distribution":{quoted(asserted.distribution)}'
    if asserted.claims is not None:
        text += f',"claims":{claims_text(asserted.claims)}'
    return f"{{{text[1:]}}}"


def texts_text(values: dict[str, str]) -> str:
    """An object of texts."""
    return "{" + ",".join([f"{quoted(name)}:{quoted(value)}" for name, value in values.items()]) + "}"
