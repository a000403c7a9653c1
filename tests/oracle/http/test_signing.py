"""Signatures over HTTP: what is asked, what is answered, and what the signer got to see."""

import hashlib
import logging
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import trio

from agentproxy.oracle.http import health as health_module
from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.fields import Claims
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.keys import Curve, EccPublicKey
from agentproxy.protocol.seal_messages import SealState
from agentproxy.protocol.signer_requests import Outcome
from tests.oracle import signerserver
from tests.oracle.http.conftest import Api, bearer
from tests.oracle.signerserver import ED25519
from tests.oracle.world import SECONDS, until

CONTENT = b"<repomd/>"
STATE = HashState.initial(HashAlgorithm.SHA256).updated(CONTENT)
RPM = {"package_hash": str(STATE), "distribution": "el10-x86_64", "key_type": "modern"}
CHECKSUM = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


def only(signed: list[SealState]) -> SealState:
    (one,) = signed
    return one


async def test_the_state_of_a_content_gets_a_signature_over_the_content(api: Api) -> None:
    async with api.connect(api.a) as client:
        claims = {"package": "hello-0:1.0-1.noarch", "file": "hello.rpm", "job": {"url": "https://ci.example/1"}}
        reply = await client.post("/sign/rpm", {**RPM, "token": api.a.token, "claims": claims})
    assert reply.status == 200
    answer = reply.json
    assert str(answer["signature"]).startswith("-----BEGIN PGP SIGNATURE-----\n")
    assert answer["key_id"] == ED25519.fingerprint.key_id
    assert answer["fingerprint"] == str(ED25519.fingerprint)
    assert (answer["signed"], answer["key"]) == ("content", "ed")
    assert str(answer["timestamp"]).endswith("Z")
    asked = only(api.signer.sealed)
    assert asked.state == STATE
    assert (asked.asserted.channel, asked.asserted.runner, asked.asserted.distribution) == ("http", "a", "el10-x86_64")
    assert asked.asserted.claims is not None
    assert asked.asserted.claims.package == "hello-0:1.0-1.noarch"


async def test_control_characters_in_claims_become_question_marks(api: Api) -> None:
    claims = {"file": "a\nb.rpm", "package": "p\x1b[31m\u202e\u00a0\u00e4", "job": {"ti\ttle": "x\x00"}}
    async with api.connect(api.a) as client:
        assert (await client.post("/sign/rpm", {**RPM, "claims": claims}, bearer(api.a))).status == 200
        twice = {**RPM, "claims": {"job": {"a\n": "1", "a\r": "2"}}}
        refused = await client.post("/sign/rpm", twice, bearer(api.a))
    logged = only(api.signer.sealed).asserted.claims
    assert logged == Claims(file="a?b.rpm", package="p?[31m?\u00a0\u00e4", job={"ti?tle": "x?"})
    assert refused.problem == (422, "invalid")
    assert "claims.job" in str(refused.json["detail"])


async def test_a_checksum_gets_a_signature_over_a_statement_and_is_told_so(api: Api) -> None:
    async with api.connect(api.t) as client:
        reply = await client.post("/sign/repodata", {"repodata_hash": CHECKSUM, "key_type": "modern"}, bearer(api.t))
    assert reply.json["signed"] == "statement"
    # The policy allows SHA-512 for this key, and the line is shorter than its block.
    statement = HashState.initial(HashAlgorithm.SHA512).updated(f"{CHECKSUM}\n".encode())
    assert only(api.signer.sealed).state == statement


@pytest.mark.parametrize("field", ["timestamp", "time", "created", "type", "sig_class", "subpackets", "notations"])
async def test_nobody_chooses_time_type_or_subpackets(api: Api, field: str) -> None:
    async with api.connect(api.a) as client:
        reply = await client.post("/sign/rpm", {**RPM, field: "2020-01-01T00:00:00Z"}, bearer(api.a))
        batch = await client.post("/sign/batch", {"items": [{**RPM, field: 0}]}, bearer(api.a))
    assert reply.problem == (422, "invalid")
    assert [error["field"] for error in reply.items("errors")] == [f"body.{field}"]
    (result,) = batch.items("results")
    assert (result["status"], wrong_fields(result)) == (422, [f"body.items.0.{field}"])
    assert api.signer.sealed == []


def wrong_fields(result: dict[str, object]) -> list[str]:
    """Of an item that is not as described."""
    problem = result["problem"]
    assert isinstance(problem, dict)
    assert (problem["status"], problem["code"]) == (422, "invalid")
    return [error["field"] for error in problem["errors"]]


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "sha1:" + "0" * 40,
        "sha256:" + "0" * 63,
        "sha256:" + "A" * 64,
        CHECKSUM + "\n",
        "sha512:" + "0" * 128,
        "sha384-state:" + "0" * 96 + ":0:",
        str(STATE).replace(":9:", ":10:"),  # a byte too few in the unfinished block
        str(STATE).replace(":9:", ":09:"),
        str(STATE).replace(":9:", f":{2**60 + 9}:"),  # longer than anybody hashes
        "sha256-state:" + "0" * 64 + ":9:" + CONTENT.hex(),  # not how SHA-256 begins
        "sha512-state:" + str(STATE).split(":", 1)[1],
    ],
)
async def test_a_state_that_cannot_be_is_refused_before_anybody_signs(api: Api, bad: str) -> None:
    async with api.connect(api.a) as client:
        reply = await client.post("/sign/rpm", {**RPM, "package_hash": bad}, bearer(api.a))
    assert reply.problem == (422, "invalid")
    assert api.signer.sealed == []


async def test_what_the_policy_forbids_is_403_recorded_and_touches_no_key(api: Api) -> None:
    async with api.connect(api.a) as client:
        other = await client.post("/sign/rpm", {**RPM, "distribution": "el9-x86_64"}, bearer(api.a))
        none = await client.post("/sign/repodata", {"repodata_hash": CHECKSUM}, bearer(api.a))
        legacy = await client.post("/sign/rpm", {**RPM, "key_type": "legacy"}, bearer(api.a))
    assert other.problem == (403, "distribution_forbidden")
    assert none.problem == (403, "distribution_missing")
    assert legacy.problem == (403, "key_unknown")
    assert api.signer.sealed == []
    await until(lambda: len(api.signer.records) == 3)
    assert {(record.outcome, record.asserted.channel) for record in api.signer.records} == {(Outcome.REFUSED, "http")}


@pytest.fixture
def ed448_signer(monkeypatch: pytest.MonkeyPatch) -> None:
    public_key = EccPublicKey(Curve.ED448, bytes(57))
    served = replace(ED25519, public_key=public_key, keygrip=public_key.keygrip)
    monkeypatch.setattr(signerserver, "ED25519", served)


@pytest.mark.usefixtures("ed448_signer")
async def test_no_header_of_an_rpm_is_signed_with_an_ed448_key(api: Api) -> None:
    async with api.connect(api.t) as client:
        header = {"package_hash": str(STATE), "distribution": "fedora-41", "key_type": "modern"}
        alone = await client.post("/sign/rpm", header, bearer(api.t))
        batch = await client.post("/sign/batch", {"items": [header]}, bearer(api.t))
    assert alone.problem == (403, "forbidden")
    assert "Ed448" in str(alone.json["detail"])
    assert [result["status"] for result in batch.items("results")] == [403]
    assert api.signer.sealed == []
    await until(lambda: len(api.signer.records) == 2)
    assert {record.outcome for record in api.signer.records} == {Outcome.REFUSED}


async def test_too_many_a_second_is_429_and_says_when_to_come_again(api: Api) -> None:
    async with api.connect(api.t) as client:
        batch = await client.post("/sign/batch", {"items": [RPM] * 4}, bearer(api.t))
        assert sorted(str(result["status"]) for result in batch.items("results")) == ["200", "200", "429", "429"]
        (*_, refused) = sorted(batch.items("results"), key=lambda result: str(result["status"]))
        problem = refused["problem"]
        assert isinstance(problem, dict)
        assert problem["retry_after"] > 0
        # On a slow machine a second may pass before the next request, and that one is allowed.
        replies = [await client.post("/sign/rpm", RPM, bearer(api.t))]
        while replies[-1].status == 200 and len(replies) < 20:
            replies.append(await client.post("/sign/rpm", RPM, bearer(api.t)))
    assert replies[-1].problem == (429, "rate_limited")
    assert replies[-1].headers["retry-after"] == "1"


async def test_an_idempotency_key_makes_a_repeat_the_same_request(api: Api) -> None:
    async with api.connect(api.a) as client:
        headers = {**bearer(api.a), "Idempotency-Key": "build-4711/hello.rpm"}
        first, again = [await client.post("/sign/rpm", RPM, headers) for _ in range(2)]
        other = await client.post("/sign/rpm", {**RPM, "package_hash": CHECKSUM}, headers)
        bad = await client.post("/sign/rpm", RPM, {**headers, "Idempotency-Key": "two words"})
    assert first.json == again.json
    assert len(api.signer.sealed) == 1
    assert other.problem == (409, "id_reused")
    # The request's id is ours: its caller never saw it, and chose the header's value only.
    assert other.json["detail"] == (
        "this Idempotency-Key already stands for a request with another content: choose another key"
    )
    assert bad.problem == (422, "invalid")


async def test_a_package_in_a_batch_needs_its_distribution_as_it_does_alone(api: Api) -> None:
    item = {"package_hash": RPM["package_hash"], "key_type": "modern"}
    async with api.connect(api.a) as client:
        alone = await client.post("/sign/rpm", item, bearer(api.a))
        batch = await client.post("/sign/batch", {"items": [item]}, bearer(api.a))
    (result,) = batch.items("results")
    assert (alone.status, result["status"]) == (422, 422)
    assert "distribution" in str(result["problem"])
    assert api.signer.sealed == []


async def test_a_batch_answers_item_by_item_in_their_order(api: Api) -> None:
    items = [
        RPM,
        {**RPM, "distribution": "el9-x86_64"},
        {"repodata_hash": CHECKSUM, "distribution": "el10-x86_64"},
        {"distribution": "el10-x86_64"},
        {**RPM, "package_hash": "sha256-state:" + "0" * 64 + ":0:"},
    ]
    async with api.connect(api.a) as client:
        reply = await client.post("/sign/batch", {"items": items, "token": api.a.token})
    results = reply.items("results")
    assert [result["status"] for result in results] == [200, 403, 200, 422, 422]
    assert [(result["result"] is None) != (result["problem"] is None) for result in results] == [True] * 5
    assert len(api.signer.sealed) == 2


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"package_hash": "md5:0", "distribution": "el10-x86_64"}, "package_hash"),
        ({**RPM, "claims": {"file": "x" * 1025}}, "claims.file"),
        ({**RPM, "claims": {"job": {"a": 1}}}, "claims.job.a"),
        ({**RPM, "distribution": "no name"}, "distribution"),
        ({**RPM, "token": "bo_secret"}, "token"),
    ],
)
async def test_an_item_that_is_not_as_described_keeps_no_other_from_being_signed(
    api: Api, bad: dict[str, object], field: str
) -> None:
    async with api.connect(api.a) as client:
        reply = await client.post("/sign/batch", {"items": [bad, RPM]}, bearer(api.a))
    wrong, right = reply.items("results")
    assert (wrong["status"], right["status"]) == (422, 200)
    assert wrong_fields(wrong) == [f"body.items.0.{field}"]
    assert b"bo_secret" not in reply.body
    assert only(api.signer.sealed).state == STATE


@pytest.mark.parametrize("item", [0, None, "text", [], [RPM]])
async def test_a_batch_with_what_is_no_item_at_all_is_none(api: Api, item: object) -> None:
    async with api.connect(api.a) as client:
        reply = await client.post("/sign/batch", {"items": [RPM, item]}, bearer(api.a))
    assert reply.problem == (422, "invalid")
    assert [error["field"] for error in reply.items("errors")] == ["body.items.1"]
    assert api.signer.sealed == []


async def test_nobody_learns_what_is_wrong_with_an_item_before_he_is_known(api: Api) -> None:
    async with api.connect(api.a) as client:
        reply = await client.post("/sign/batch", {"items": [{"package_hash": "md5:0"}]})
    assert reply.problem == (401, "token_unknown")


async def test_a_repeated_batch_signs_nothing_twice(api: Api) -> None:
    async with api.connect(api.a) as client:
        headers = {**bearer(api.a), "Idempotency-Key": "rebuild-1"}
        body = {"items": [RPM, {**RPM, "package_hash": CHECKSUM}]}
        first, again = [await client.post("/sign/batch", body, headers) for _ in range(2)]
    assert first.json == again.json
    assert len(api.signer.sealed) == 2


@pytest.mark.parametrize("items", [[], [RPM] * 257])
async def test_a_batch_has_1_to_256_items(api: Api, items: list[object]) -> None:
    async with api.connect(api.a) as client:
        assert (await client.post("/sign/batch", {"items": items}, bearer(api.a))).problem == (422, "invalid")


async def test_without_a_signer_there_is_no_signature_and_health_says_why(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with api.connect(api.a) as client:
        assert (await client.get("/health")).json == {
            "status": "ok",
            "checks": {"signer": "ok", "audit_log": "ok", "registry": "ok", "keys": "ok"},
        }
        api.signer.die()
        with trio.fail_after(SECONDS):
            await until(lambda: not api.oracle._link.is_connected)
        reply = await client.post("/sign/rpm", RPM, bearer(api.a))
        assert reply.problem == (503, "not_operational")
        assert reply.headers["retry-after"] == "1"
    monkeypatch.setattr(health_module, "KEPT_SECONDS", 0.0)
    async with api.connect(None) as stranger:
        health = await stranger.get("/health")
    assert health.status == 503
    assert health.json["status"] == "unavailable"
    assert "out of reach" in str(health.json["checks"])


async def test_the_version_is_for_everybody(api: Api) -> None:
    async with api.connect(None) as client:
        reply = await client.get("/version")
    assert reply.status == 200
    assert str(reply.json["software"]).startswith("blind-oracle")
    assert reply.json["api"] == 1


@pytest.mark.parametrize("path", ["/health", "/version", "/openapi.json", "/keys", "/keys/ed.asc", "/sign/rpm"])
async def test_an_address_with_a_newline_behind_it_is_another_one(api: Api, path: str) -> None:
    async with api.connect(api.a) as client:
        reply = await client.get(f"{path}%0a", bearer(api.a))
    assert reply.problem == (404, "no_such_address")


async def test_what_is_not_there_is_a_problem_document_too(api: Api) -> None:
    async with api.connect(None) as client:
        assert (await client.get("/docs")).problem == (404, "no_such_address")
        for path in ("/sign/rpm", "/sign/repodata", "/sign/batch"):
            reply = await client.get(path)
            assert reply.problem == (405, "no_such_address")
            assert reply.headers["allow"] == "POST"
        document = await client.get("/openapi.json")
    assert document.status == 200
    assert set(document.json["paths"]) == {  # type: ignore[arg-type]  # what JSON holds
        "/sign/rpm", "/sign/repodata", "/sign/batch", "/keys", "/keys/{file}", "/health", "/version"
    }  # fmt: skip
    assert document.body.count(b'"405":{') == 7
    assert b'"#/components/schemas/BatchItem"' in document.body


@pytest.mark.parametrize(
    ("path", "status"),
    [("/health", 200), ("/version", 200), ("/openapi.json", 200), ("/keys", 200), ("/keys/ed.asc", 200),
     ("/keys/other.asc", 404), ("/nowhere", 404), ("/sign/rpm", 405), ("/keys?token=x", 400)],
)  # fmt: skip
async def test_head_is_answered_as_get_is_without_the_body(
    api: Api, caplog: pytest.LogCaptureFixture, path: str, status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    async with api.connect(api.a) as client:
        got = await client.get(path, bearer(api.a))
    # One byte of a body would be taken for the beginning of the second answer.
    async with api.connect(api.a) as client:
        replies = [await client.head(path, bearer(api.a))]
        if "connection" not in replies[0].headers:
            replies.append(await client.head(path, bearer(api.a)))
    for reply in replies:
        assert (reply.status, reply.body) == (status, b"")
        assert without_date(reply.headers) == without_date(got.headers)
    assert int(got.headers["content-length"]) == len(got.body)
    await until(lambda: "method=HEAD" in caplog.text)


def without_date(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "date"}


async def test_an_address_that_is_read_says_that_head_is_allowed(api: Api) -> None:
    async with api.connect(None) as client:
        reply = await client.post("/health", {})
    assert reply.problem == (405, "no_such_address")
    assert reply.headers["allow"] == "GET, HEAD"


async def test_health_names_a_log_that_cannot_be_written_and_keys_that_ended(api: Api) -> None:
    api.signer.status_trouble = "/var/lib/secret/place: no space left on device"
    ended = replace(ED25519, expires=datetime(2026, 1, 1, tzinfo=UTC))
    api.signer.keys = (ended,)
    await until(lambda: list(api.oracle._service.keys.values()) == [ended])
    async with api.connect(None) as client:
        health = await client.get("/health")
        assert health.status == 503
        assert health.json["checks"] == {
            "signer": "ok",
            "audit_log": "the audit log cannot be written",
            "registry": "ok",
            "keys": "expired: ed",
        }
        assert b"secret" not in health.body


async def test_health_names_keys_that_nobody_serves_and_a_registry_out_of_reach(api: Api) -> None:
    api.signer.keys = ()
    await until(lambda: not api.oracle._service.keys)
    api.oracle._view.is_replayed = False
    async with api.connect(None) as client:
        health = await client.get("/health")
        assert health.status == 503
        assert health.json["checks"] == {
            "signer": "ok",
            "audit_log": "ok",
            "registry": "the registry is out of reach, or the audit log not yet replayed",
            "keys": "not served: ed",
        }
        refused = await client.post("/sign/rpm", RPM, bearer(api.t))
    assert refused.problem == (503, "not_operational")
