"""One `hello` and its answer, outside of the relay's lasting connection: enrolment, and the first use of what came."""

from collections.abc import Sequence

import trio

from agentproxy.protocol.codes import RejectionCode
from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.messages import FROM_ORACLE, FROM_RELAY, FromOracle
from agentproxy.protocol.oracle_messages import Credentials, Rejected, Welcome
from agentproxy.runtime.streams import EndOfStream, FramedStream
from agentproxy.runtime.tlscontext import explain
from relay.config import OracleAddress
from relay.credentials import CredentialSet
from relay.dial import Dialer
from relay.errors import LinkLostError, RejectedError

__all__ = ["confirm", "exchange"]

_LATER = "its log has the reason; then try again with the same file"
ANSWER_SECONDS = 15.0  # the oracle has a certificate issued and two records written; that takes milliseconds


def exchange(bootstrap: CredentialSet, oracles: Sequence[OracleAddress]) -> Credentials:
    """Get lasting credentials for those of an enrolment file. It blocks.

    Raises:
        ConfigError: no oracle can be reached, or the one that was does not take them.
    """
    answer = trio.run(_say_hello, bootstrap, oracles)
    if not isinstance(answer, Credentials):
        raise ConfigError("the oracle does not treat this as an enrolment", "is it older than this relay?")
    return answer


def confirm(credentials: CredentialSet, oracles: Sequence[OracleAddress]) -> bool:
    """Use credentials once; False when the oracle does not take them. It blocks.

    Raises:
        ConfigError: no oracle can be reached, or those that are cannot tell now.
    """
    try:
        return isinstance(trio.run(_say_hello, credentials, oracles), Welcome)
    except RejectedError as error:
        if error.code is RejectionCode.NOT_OPERATIONAL:
            raise ConfigError(f"the credentials are stored, and not used yet: {error}", _LATER) from error
        return False


async def _say_hello(credentials: CredentialSet, oracles: Sequence[OracleAddress]) -> FromOracle:
    problems: list[str] = []
    for oracle in oracles:
        try:
            return await _ask(credentials, oracle)
        except LinkLostError as error:
            problems.append(f"{oracle.address}: {error}")
        except RejectedError as error:
            if error.code is not RejectionCode.NOT_OPERATIONAL or oracle is oracles[-1]:
                raise
            problems.append(f"{oracle.address}: {error}")  # that is its own trouble: the next one may be well
    raise ConfigError(
        "no oracle in reach: " + "; ".join(problems),
        "enrolment needs a running oracle that this host can reach; nothing was used up, so try again",
    )


async def _ask(credentials: CredentialSet, oracle: OracleAddress) -> FromOracle:
    dialer = Dialer(credentials)
    framed = FramedStream(await dialer.connect(oracle))
    framed.send_soon(FROM_RELAY.encode(dialer.hello()))
    answers: list[bytes] = []
    problem = f"no answer to hello within {ANSWER_SECONDS:.0f} s"
    try:
        with trio.move_on_after(ANSWER_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(framed.run_sender)
                answers = await framed.receive()
                nursery.cancel_scope.cancel()
    except* EndOfStream:
        problem = "the oracle closed the connection"
    except* RemoteProtocolError as errors:
        problem = explain(errors.exceptions[0])
    finally:
        with trio.CancelScope(shield=True):  # bounded by the stream itself
            await framed.aclose()
    if not answers:
        raise LinkLostError(problem)
    try:
        answer = FROM_ORACLE.decode(answers[0])
    except RemoteProtocolError as error:
        raise LinkLostError(str(error)) from error
    if isinstance(answer, Rejected):
        raise RejectedError(answer.code)
    return answer
