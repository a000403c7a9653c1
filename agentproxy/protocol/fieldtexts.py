"""The JSON of what stands in every signature's messages, written out: `json` and cattrs take four times as long.

The same text as theirs, which a test holds it to. Whatever can hold a quote goes through `quoted`.
"""

import json

from agentproxy.protocol.digests import Digest
from agentproxy.protocol.fields import Asserted, Claims, Head
from agentproxy.protocol.signatures import RsaSignature, Signature

__all__ = ["asserted_text", "claims_text", "digest_text", "head_text", "quoted", "signature_text", "texts_text"]

quoted = json.encoder.encode_basestring_ascii


def digest_text(digest: Digest) -> str:
    """A digest."""
    return f'{{"algorithm":{digest.algorithm:d},"value":"{digest.value.hex()}"}}'


def signature_text(signature: Signature) -> str:
    """A signature of any kind."""
    if isinstance(signature, RsaSignature):
        return f'{{"algorithm":"rsa","s":"{signature.s.hex()}"}}'
    return f'{{"algorithm":"{signature.algorithm}","r":"{signature.r.hex()}","s":"{signature.s.hex()}"}}'


def head_text(head: Head) -> str:
    """The end of a log; a node's name holds no quote."""
    return f'{{"node":"{head.node}","sequence":{head.sequence},"hash":"{head.hash.hex()}"}}'


def claims_text(claims: Claims) -> str:
    """Claims; what the relay did not see is left out. The audit log has them in this form too."""
    members = [
        "" if claims.uid is None else f'"uid":{claims.uid}',
        "" if claims.user is None else f'"user":{quoted(claims.user)}',
        "" if claims.pid is None else f'"pid":{claims.pid}',
        f'"commands":[{",".join([quoted(command) for command in claims.commands])}]' if claims.commands else "",
        "" if claims.file is None else f'"file":{quoted(claims.file)}',
        "" if claims.package is None else f'"package":{quoted(claims.package)}',
        f'"job":{texts_text(claims.job)}' if claims.job else "",
        f'"distributions":[{",".join([quoted(name) for name in claims.distributions])}]'
        if claims.distributions
        else "",
    ]
    return "{" + ",".join([member for member in members if member]) + "}"


def asserted_text(asserted: Asserted) -> str:
    """What the oracle asserts; what is as usual is left out."""
    members = [
        "" if asserted.runner is None else f'"runner":{quoted(asserted.runner)}',
        "" if asserted.token is None else f'"token":{quoted(asserted.token)}',
        "" if asserted.certificate is None else f'"certificate":{quoted(asserted.certificate)}',
        "" if asserted.address is None else f'"address":{quoted(asserted.address)}',
        "" if asserted.channel == "relay" else f'"channel":{quoted(asserted.channel)}',
        "" if asserted.distribution is None else f'"distribution":{quoted(asserted.distribution)}',
        "" if asserted.claims is None else f'"claims":{claims_text(asserted.claims)}',
    ]
    return "{" + ",".join([member for member in members if member]) + "}"


def texts_text(values: dict[str, str]) -> str:
    """An object of texts."""
    return "{" + ",".join([f"{quoted(name)}:{quoted(value)}" for name, value in values.items()]) + "}"
