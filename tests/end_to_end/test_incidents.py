"""What docs/OPERATIONS.md says to do when credentials were stolen, word by word; and the thief, who keeps trying."""

import json
import shutil
import ssl
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest
import trio

from agentproxy.protocol.codes import RejectionCode
from agentproxy.protocol.messages import FROM_ORACLE, FROM_RELAY, FromOracle
from agentproxy.protocol.oracle_messages import Credentials, Rejected, Welcome
from agentproxy.runtime.streams import FramedStream
from relay.config import OracleAddress, load_config
from relay.credentials import CredentialSet
from relay.dial import Dialer
from relay.enrolment import enrol, places_for, read_enrolment
from tests.admin.shell import blind_oracle
from tests.end_to_end.place import SECONDS, System, until


def operator(system: System, *words: str | Path) -> str:
    result = blind_oracle(*words, environment={"BLIND_ORACLE_CONFIG": str(system.directory / "oracle.yaml")})
    assert result.status == 0, result.errors
    return result.output


def shown(system: System, runner: str) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = json.loads(operator(system, "runner", "show", runner, "--json"))
    return found


def answer_to(held: CredentialSet, oracles: Sequence[OracleAddress]) -> FromOracle:
    """What the oracle says to a `hello` with these credentials, over the framed stream."""

    async def say_hello() -> FromOracle:
        dialer = Dialer(held)
        stream = FramedStream(await dialer.connect(oracles[0]))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run_sender)
            stream.send_soon(FROM_RELAY.encode(dialer.hello()))
            with trio.fail_after(SECONDS):
                payload = (await stream.receive())[0]
            nursery.cancel_scope.cancel()
        await stream.aclose()
        return FROM_ORACLE.decode(payload)

    return trio.run(say_hello)


def copied(held: Path, place: Path) -> CredentialSet:
    return CredentialSet(Path(shutil.copytree(held, place)))


def of_a_file(file: Path, place: Path) -> CredentialSet:
    """An enrolment file's own credentials, as somebody uses them who leaves the new ones unused."""
    given = read_enrolment(file)
    place.mkdir()
    made = CredentialSet(place)
    pair = given.certificate, given.private_key
    made.write(Credentials(given.runner, *pair, given.authority, given.token, given.expires))
    return made


def token_of(held: CredentialSet) -> str:
    return sha256(held.token.read_bytes().strip()).hexdigest()[:12]


def certificate_of(held: CredentialSet) -> str:
    return sha256(ssl.PEM_cert_to_DER_cert(held.certificate.read_text())).hexdigest()


def test_what_was_stolen_from_a_build_server_stays_useless_after_it_is_enabled_again(
    system: System, tmp_path: Path
) -> None:
    oracles = load_config(system.directory / "relay" / "relay.yaml").oracles
    stolen = copied(system.directory / "relay" / "state" / "credentials" / "current", tmp_path / "stolen")
    assert isinstance(answer_to(stolen, oracles), Welcome)
    file = tmp_path / "dev.enrolment"

    operator(system, "runner", "disable", "dev")
    until(lambda: isinstance(answer_to(stolen, oracles), Rejected), "the oracle knows that it is disabled")
    said = operator(system, "runner", "enroll", "dev", "--output", file)
    assert "revoked for ever what dev held: 1 token and 1 certificate" in said
    assert "dev is still disabled" in said
    assert "blind-oracle runner enable dev" in said
    assert "enabled runner dev, with what it holds: 1 token and 1 certificate" in operator(
        system, "runner", "enable", "dev"
    )

    # The new credentials are there and were never used.
    fresh = of_a_file(file, tmp_path / "fresh")
    until(lambda: isinstance(answer_to(fresh, oracles), Credentials), "the oracle knows that it is enabled")
    assert answer_to(stolen, oracles) == Rejected(RejectionCode.CERTIFICATE_REVOKED)
    shutil.copy(stolen.token, fresh.token)
    assert answer_to(fresh, oracles) == Rejected(RejectionCode.TOKEN_REVOKED)
    states = {row["id"]: row["state"] for row in shown(system, "dev")["tokens"]}
    assert states[token_of(stolen)] == "revoked"
    states = {row["sha256"]: row["state"] for row in shown(system, "dev")["certificates"]}
    assert states[certificate_of(stolen)] == "revoked"

    config = f"--config={system.directory / 'relay' / 'relay.yaml'}"
    system.stop("relay")
    done = system.run("blind-oracle-relay", "enroll", file, config, "--replace")
    assert done.returncode == 0, done.stderr
    system.start()
    assert system.sign().returncode == 0
    assert answer_to(stolen, oracles) == Rejected(RejectionCode.CERTIFICATE_REVOKED)
    assert_recorded(system, stolen)


def assert_recorded(system: System, stolen: CredentialSet) -> None:
    ended = [record for record in system.records() if str(record["operation"]).endswith("_revoked")]
    assert [record["operation"] for record in ended][-2:] == ["token_revoked", "certificate_revoked"]
    assert ended[-2]["details"] == {"token": token_of(stolen)}
    system.assert_log_is_whole()


def test_an_enabled_runner_keeps_what_it_holds_unless_the_operator_says_otherwise(
    system: System, tmp_path: Path
) -> None:
    oracles = load_config(system.directory / "relay" / "relay.yaml").oracles
    held = copied(system.directory / "relay" / "state" / "credentials" / "current", tmp_path / "held")
    said = operator(system, "runner", "enroll", "dev", "--output", tmp_path / "first")
    assert "what dev holds stays good: 1 token and 1 certificate; with --revoke-old it ends" in said
    assert isinstance(answer_to(held, oracles), Welcome)

    said = operator(system, "runner", "enroll", "dev", "--revoke-old", "--output", tmp_path / "second")
    assert "revoked for ever what dev held: 2 tokens and 2 certificates" in said  # the first file's, too
    # One change after the other, tokens before certificates: the oracle may have read the registry in their midst.
    ended = Rejected(RejectionCode.CERTIFICATE_REVOKED)
    until(lambda: answer_to(held, oracles) == ended, "the oracle knows that the relay's certificate is revoked")
    unused = of_a_file(tmp_path / "first", tmp_path / "unused")
    until(lambda: answer_to(unused, oracles) == ended, "the oracle knows that the first file's is")

    config = f"--config={system.directory / 'relay' / 'relay.yaml'}"
    system.stop("relay")
    done = system.run("blind-oracle-relay", "enroll", tmp_path / "second", config, "--replace")
    assert done.returncode == 0, done.stderr
    system.start()
    assert system.sign().returncode == 0


def test_an_enrolment_file_that_somebody_else_used_first_ends_for_them(system: System, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    operator(system, "runner", "add", "twice", "--key=modern", "--policy-add", "--output", first)
    system.reload_policy()
    thief = places_for(tmp_path / "thief" / "relay.yaml")
    enrol(read_enrolment(first), thief, replace=False)
    stolen = CredentialSet(thief.state / "credentials" / "current")
    oracles = load_config(thief.config).oracles
    assert isinstance(answer_to(stolen, oracles), Welcome)

    config = f"--config={tmp_path / 'ours' / 'relay.yaml'}"
    refused = system.run("blind-oracle-relay", "enroll", first, config)
    assert refused.returncode == 1
    assert "was revoked" in refused.stderr

    operator(system, "runner", "disable", "twice")
    operator(system, "runner", "enroll", "twice", "--output", second)
    refused = system.run("blind-oracle-relay", "enroll", second, config)
    assert refused.returncode == 1
    assert "the oracle's registry has this runner disabled" in refused.stderr
    assert "hint: blind-oracle runner enable twice, on the oracle's host; then this file works" in refused.stderr

    operator(system, "runner", "enable", "twice")
    until(lambda: system.run("blind-oracle-relay", "enroll", second, config).returncode == 0, "the file works")
    assert answer_to(stolen, oracles) == Rejected(RejectionCode.CERTIFICATE_REVOKED)


@pytest.mark.parametrize("name", ["public_key_sha256", "sha256"])
def test_a_certificate_is_revoked_by_either_of_its_names(system: System, tmp_path: Path, name: str) -> None:
    runner = f"by_{name}"
    operator(system, "runner", "add", runner, "--key=modern", "--policy-add", "--output", tmp_path / "file")
    system.reload_policy()
    places = places_for(tmp_path / "relay.yaml")
    enrol(read_enrolment(tmp_path / "file"), places, replace=False)
    held, oracles = CredentialSet(places.state / "credentials" / "current"), load_config(places.config).oracles
    (row,) = [row for row in shown(system, runner)["certificates"] if row["sha256"] == certificate_of(held)]

    said = operator(system, "runner", "revoke-certificate", row[name].upper())

    assert said == f"revoked 1 certificate of runner {runner}, public key {row['public_key_sha256']}\n"
    until(lambda: isinstance(answer_to(held, oracles), Rejected), "the oracle knows what was revoked")
    assert answer_to(held, oracles) == Rejected(RejectionCode.CERTIFICATE_REVOKED)
    assert "is revoked already" in operator(system, "runner", "revoke-certificate", row[name])


def test_a_client_by_token_alone_is_made_with_the_documented_steps(system: System, tmp_path: Path) -> None:
    operator(system, "runner", "add", "manager", "--key=modern", "--policy-add", "--output", tmp_path / "unused")
    policy = system.directory / "policy.yaml"
    policy.write_text(policy.read_text().replace("  manager:\n", "  manager:\n    token_only: true\n"))
    operator(system, "token", "rotate", "manager", "--overlap", "0", "--output", tmp_path / "manager.token")
    system.reload_policy()

    authority, url = (system.environment[f"BLIND_ORACLE_HTTP{name}"] for name in ("_AUTHORITY", ""))

    def keys_for(token: str) -> str:
        header = tmp_path / "header"
        header.write_text(f"Authorization: Bearer {token}\n")
        return system.run("curl", "--silent", "--cacert", authority, "--header", f"@{header}", f"{url}/keys").stdout

    until(lambda: '"modern"' in keys_for((tmp_path / "manager.token").read_text().strip()), "the token is good")
    assert "token_expired" in keys_for(read_enrolment(tmp_path / "unused").token)
    operator(system, "token", "rotate", "manager", "--overlap", "120", "--output", tmp_path / "later.token")
    until(lambda: '"modern"' in keys_for((tmp_path / "later.token").read_text().strip()), "the next one, too")
    assert '"modern"' in keys_for((tmp_path / "manager.token").read_text().strip())
