"""Who gets in over HTTP, and with what."""

import hashlib
import logging
import ssl
import urllib.parse
from datetime import UTC, datetime, timedelta

import pytest
import trio

from agentproxy.oracle.changes import CredentialsIssued, TokenRevoked
from agentproxy.oracle.config import OracleConfig
from agentproxy.oracle.credentials import TokenKind
from agentproxy.oracle.daemon import Oracle
from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.config import load
from tests.oracle.http.client import HttpClient, Reply, http_connected
from tests.oracle.http.conftest import HTTP, Api, bearer
from tests.oracle.signerserver import AUTHORITY, FakeSigner
from tests.oracle.world import (
    SECONDS,
    STRANGERS,
    Enrolled,
    World,
    certificate_sha256,
    context,
    public_key_sha256,
    put,
    until,
)


async def test_a_runner_sees_its_keys_and_their_certificates(api: Api) -> None:
    async with api.connect(api.a) as client:
        keys = await client.get("/keys", bearer(api.a))
        assert keys.status == 200
        (key,) = keys.items("keys")
        assert (key["name"], key["key_type"], key["algorithm"]) == ("ed", "modern", "ecc")
        certificate = await client.get("/keys/ed.asc", bearer(api.a))
        assert certificate.status == 200
        assert certificate.headers["content-type"].startswith("application/pgp-keys")
        assert certificate.body.startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
        assert (await client.get("/keys/other.asc", bearer(api.a))).problem == (404, "key_not_found")


async def test_a_certificate_that_is_not_there_is_503_and_the_log_says_which(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    file = api.world.directory / "certificates" / "ed.pgp"
    file.unlink()
    async with api.connect(api.a) as client:
        reply = await client.get("/keys/ed.asc", bearer(api.a))
    assert reply.problem == (503, "backend")
    assert f"certificate not sent, runner=a reason={file}: cannot be read: No such file" in caplog.text


async def test_who_asks_again_and_again_for_a_certificate_that_is_not_there_fills_no_log(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    (api.world.directory / "certificates" / "ed.pgp").unlink()
    async with api.connect(api.a) as client:
        replies = [await client.get("/keys/ed.asc", bearer(api.a)) for _ in range(8)]
    assert {reply.problem for reply in replies} == {(503, "backend")}
    assert caplog.text.count("certificate not sent, runner=a ") == 5


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Bearer bo_" + "A" * 43},
        {"Authorization": "Basic YTpi"},
    ],
)
async def test_without_a_good_token_nobody_gets_in(api: Api, headers: dict[str, str]) -> None:
    async with api.connect(api.a) as client:
        reply = await client.get("/keys", headers)
    assert reply.problem == (401, "token_unknown")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert api.oracle._service.tally.rejected == {"token_unknown": 1}


@pytest.mark.parametrize("path", ["/sign/rpm", "/sign/repodata", "/sign/batch"])
async def test_a_token_may_stand_in_the_body_and_none_counts_beside_another(api: Api, path: str) -> None:
    name = "package_hash" if path == "/sign/rpm" else "repodata_hash"
    item = {name: f"sha256:{'0' * 64}", "distribution": "el10-x86_64"}
    fields = {"items": [item]} if path == "/sign/batch" else item
    second = api.world.enrol("a")
    await api.registry_is_seen()
    async with api.connect(api.a) as client:
        for headers in ({}, bearer(api.a)):
            assert (await client.post(path, {**fields, "token": api.a.token}, headers)).status == 200
        for token in (second.token, api.t.token, "nonsense"):
            assert (await client.post(path, {**fields, "token": token}, bearer(api.a))).problem == (
                401,
                "token_unknown",
            )
        twice = {**bearer(api.a), "authorization": f"Bearer {second.token}"}  # two headers
        assert (await client.post(path, fields, twice)).problem == (401, "token_unknown")
    assert len(api.signer.sealed) == 2


async def test_whoever_tries_tokens_is_answered_each_time_and_logged_some_times(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "agentproxy")
    async with api.connect(None) as client:
        for _ in range(20):
            reply = await client.get("/keys", {"Authorization": f"Bearer bo_{'x' * 43}"})
            assert reply.problem == (401, "token_unknown")
            assert (await client.get("/nothing")).status == 404
        for _ in range(8):
            assert (await client.get("/keys", bearer(api.t))).status == 200
    async with api.connect(None) as client:
        assert (await client.get("/keys", proxied(api.a))).problem == (400, "identity_headers")
    assert caplog.text.count("address=127.0.0.1:") == 5 + 8
    assert caplog.text.count("status=200 runner=t ") == 8


async def test_a_certificate_may_be_missing_only_where_the_policy_says_so(api: Api) -> None:
    async with api.connect(None) as client:
        assert (await client.get("/keys", bearer(api.a))).problem == (401, "certificate_unknown")
        assert (await client.get("/keys", bearer(api.t))).status == 200


async def test_certificate_and_token_of_different_runners_open_nothing(api: Api) -> None:
    async with api.connect(api.a) as client:
        assert (await client.get("/keys", bearer(api.t))).problem == (403, "token_of_another_runner")


async def test_an_enrolment_file_s_token_is_for_nothing_else(api: Api) -> None:
    newcomer = api.world.enrol("a", kind=TokenKind.BOOTSTRAP)
    async with api.connect(newcomer) as client:
        assert (await client.get("/keys", bearer(newcomer))).problem == (401, "token_unknown")
    assert api.oracle._service.tally.rejected == {"token_unknown": 1}


async def test_an_old_enrolment_file_s_token_does_not_fill_the_log(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    newcomer = api.world.enrol("a", kind=TokenKind.BOOTSTRAP)
    put(api.world.registry, TokenRevoked(newcomer.token_id))
    await api.registry_is_seen()
    async with api.connect(newcomer) as client:
        for _ in range(20):
            assert (await client.get("/keys", bearer(newcomer))).problem == (401, "token_revoked")
    assert caplog.text.count("an enrolment file was used again after its end") == 5


async def test_a_revoked_token_is_refused_on_a_connection_that_is_open(api: Api) -> None:
    async with api.connect(api.a) as client:
        assert (await client.get("/keys", bearer(api.a))).status == 200
        put(api.world.registry, TokenRevoked(api.a.token_id))
        await api.registry_is_seen()
        assert (await client.get("/keys", bearer(api.a))).problem == (401, "token_revoked")


async def test_a_certificate_of_another_authority_ends_the_handshake(api: Api) -> None:
    stranger = context(STRANGERS.issue_cert("a.example"))
    async with http_connected(api.address, stranger) as client:
        with pytest.raises(trio.BrokenResourceError):
            await client.get("/version")


async def test_a_certificate_that_has_expired_ends_the_handshake_with_an_alert(api: Api) -> None:
    expired = AUTHORITY.issue_cert("a.example", not_after=datetime.now(UTC) - timedelta(minutes=1))
    async with http_connected(api.address, context(expired)) as client:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await client.get("/version")
    assert "certificate expired" in str(caught.value.__cause__)


async def test_a_certificate_that_the_handshake_lets_pass_and_the_registry_knows_as_expired_gets_401(api: Api) -> None:
    leaf, now = AUTHORITY.issue_cert("a.example"), datetime.now(UTC)
    token, ended = hashlib.sha256(b"another").digest(), now - timedelta(minutes=1)
    later = now + timedelta(days=1)
    put(
        api.world.registry,
        CredentialsIssued("a", token, later, certificate_sha256(leaf), public_key_sha256(leaf), ended),
    )
    await api.registry_is_seen()
    async with http_connected(api.address, context(leaf)) as client:
        assert (await client.get("/keys", bearer(api.a))).problem == (401, "certificate_expired")


async def test_tls_1_2_is_not_spoken_over_http_either(api: Api) -> None:
    old = context(api.a.certificate)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with http_connected(api.address, old) as client:
        with pytest.raises(trio.BrokenResourceError):
            await client.get("/version")


async def test_a_token_in_the_address_is_refused_and_stands_in_no_log(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for path in (f"/keys?token={api.a.token}", f"/nowhere?access_token={api.a.token}"):
        async with api.connect(api.a) as client:
            reply = await client.get(path, bearer(api.a))
        assert reply.problem == (400, "query_string")
        assert api.a.token not in reply.body.decode()
    async with api.connect(api.a) as client:
        assert (await client.get(f"/keys/{api.a.token}", bearer(api.a))).status in {404, 422}
    await until(lambda: "status=400" in caplog.text)
    assert api.a.token not in caplog.text


async def test_who_a_request_comes_from_is_not_taken_from_headers_on_the_open_port(api: Api) -> None:
    async with api.connect(None) as client:
        reply = await client.get("/keys", {**bearer(api.a), **proxied(api.a)})
    assert reply.problem == (400, "identity_headers")


def proxied(who: Enrolled | None, verify: str = "SUCCESS") -> dict[str, str]:
    """What nginx says of a client."""
    pem = "" if who is None else urllib.parse.quote(who.certificate.cert_chain_pems[0].bytes().decode())
    return {
        "X-SSL-Client-Verify": "NONE" if who is None else verify,
        "X-SSL-Client-Cert": pem,
        "X-Real-IP": "192.0.2.7",
    }


async def through_proxy(api: Api, headers: dict[str, str]) -> Reply:
    async with await trio.open_unix_socket(api.proxy_socket) as stream:
        return await HttpClient(stream).get("/keys", headers)


async def test_the_proxy_s_socket_believes_what_the_proxy_says_of_its_client(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert (await through_proxy(api, {**bearer(api.a), **proxied(api.a)})).status == 200
    assert (await through_proxy(api, {**bearer(api.t), **proxied(None)})).status == 200
    assert (await through_proxy(api, {**bearer(api.a), **proxied(None)})).problem == (401, "certificate_unknown")
    assert (await through_proxy(api, {**bearer(api.t), **proxied(api.a)})).problem == (403, "token_of_another_runner")
    await until(lambda: "runner=a address=192.0.2.7:0" in caplog.text)


@pytest.mark.parametrize(
    "changes",
    [
        {"X-SSL-Client-Verify": "FAILED:unable to verify the first certificate"},
        {"X-SSL-Client-Cert": "-----BEGIN%20CERTIFICATE-----nonsense"},
        {"X-SSL-Client-Cert": ""},
        {"X-Real-IP": "somewhere"},
        {"X-SSL-Client-Verify": None},
        {"X-Real-IP": None},
        {"X-SSL-Client-Verify": "NONE"},  # and a certificate all the same
        {"x-real-ip": "192.0.2.8"},  # a second one
        {"x-ssl-client-verify": "SUCCESS"},
    ],
)
async def test_a_proxy_that_does_not_say_all_is_not_believed(api: Api, changes: dict[str, str | None]) -> None:
    headers = {**bearer(api.a), **proxied(api.a), **changes}
    given = {name: value for name, value in headers.items() if value is not None}
    assert (await through_proxy(api, given)).problem == (400, "identity_headers")


async def test_nobody_but_the_proxy_s_user_may_use_its_socket(
    world: World, signer: FakeSigner, nursery: trio.Nursery
) -> None:
    config = world.directory / "oracle.yaml"
    config.write_text(config.read_text() + HTTP.format(user="nobody"))
    oracle = Oracle(load(config, OracleConfig))
    nursery.start_soon(oracle.run)
    with trio.fail_after(SECONDS):
        await oracle.listening.wait()
        async with await trio.open_unix_socket(world.directory / "proxy.sock") as stream:
            assert await stream.receive_some() == b""
    oracle.stop()


def test_an_unknown_user_of_the_proxy_stops_the_start(world: World) -> None:
    config = world.directory / "oracle.yaml"
    config.write_text(config.read_text() + HTTP.format(user="no-such-user"))
    with pytest.raises(ConfigError, match=r"http\.proxy\.user: there is no user no-such-user"):
        Oracle(load(config, OracleConfig))
