import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from agentproxy.oracle import expiries as module
from agentproxy.oracle.config import TlsConfig
from agentproxy.oracle.credentials import CertificateEntry, Credentials, RunnerEntry, TokenEntry, TokenKind
from agentproxy.oracle.expiries import CertificatesInUse, credential_expiries, key_expiries, warn_daily
from tests.oracle.samples import LEGACY, MODERN
from tests.oracle.world import AUTHORITY, until

NOW = datetime.now(UTC)


def token(name: str, runner: str, days: int | None, *, revoked: bool = False) -> TokenEntry:
    end = None if days is None else NOW + timedelta(days=days)
    return TokenEntry(name.encode().ljust(32), name, runner, NOW, end, NOW if revoked else None)


def picture(*tokens: TokenEntry, certificates: tuple[CertificateEntry, ...] = ()) -> Credentials:
    runners = {"a": RunnerEntry("a", NOW), "off": RunnerEntry("off", NOW, disabled=True)}
    return Credentials(
        1,
        runners,
        {each.sha256: each for each in tokens},
        {each.sha256: each for each in certificates},
        frozenset({b"r" * 32}),
    )


@pytest.mark.parametrize(
    ("tokens", "days"),
    [
        ([token("1", "a", 5)], 5),
        ([token("1", "a", -5), token("2", "a", 90), token("3", "a", 5)], 90),
        ([token("1", "a", 5), token("2", "a", 90, revoked=True)], 5),
        ([token("1", "a", 5), token("2", "a", None)], None),
    ],
)
def test_a_runners_last_good_token_counts(tokens: list[TokenEntry], days: int | None) -> None:
    expected = None if days is None else NOW + timedelta(days=days)
    assert credential_expiries(picture(*tokens)) == {"token of a": expected}


def test_disabled_and_unknown_runners_and_revoked_certificates_do_not_count() -> None:
    end = NOW + timedelta(days=3)
    certificates = (
        CertificateEntry(b"1" * 32, b"k" * 32, "a", NOW, end),
        CertificateEntry(b"2" * 32, b"r" * 32, "a", NOW, end + timedelta(days=1)),
    )
    tokens = (token("1", "off", 5), token("2", "gone", 5))
    assert credential_expiries(picture(*tokens, certificates=certificates)) == {"certificate of a": end}


def test_an_enrolment_file_and_what_no_relay_has_used_do_not_count() -> None:
    bootstrap = replace(token("1", "a", 1), kind=TokenKind.BOOTSTRAP)
    pending = replace(token("2", "a", 90), replaces="3")
    certificates = tuple(
        CertificateEntry(name * 32, name * 32, "a", NOW, NOW + timedelta(days=90), token_id)
        for name, token_id in ((b"1", "1"), (b"2", "2"))
    )
    assert credential_expiries(picture(bootstrap, pending, certificates=certificates)) == {}
    used = token("3", "a", 5)
    assert credential_expiries(picture(bootstrap, pending, used)) == {"token of a": used.expires}


def test_a_certificate_counts_on_when_the_token_that_came_with_it_was_revoked() -> None:
    end = NOW + timedelta(days=5)
    certificate = CertificateEntry(b"1" * 32, b"k" * 32, "a", NOW, end, "1")
    leaked, fresh = token("1", "a", 90, revoked=True), token("2", "a", 300)
    found = credential_expiries(picture(leaked, fresh, certificates=(certificate,)))
    assert found == {"token of a": fresh.expires, "certificate of a": end}


def test_a_key_that_never_ends_is_known_as_such() -> None:
    assert key_expiries([replace(MODERN, expires=NOW), LEGACY]) == {"key modern": NOW, "key legacy": None}


async def test_the_log_is_told_once_a_day(
    short: Path, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DAY_SECONDS", 0.2)
    ends = datetime.now(UTC) + timedelta(days=20, hours=1)
    leaf = AUTHORITY.issue_cert("a.example", not_after=ends)
    leaf.cert_chain_pems[0].write_to_path(str(short / "server.crt"))
    AUTHORITY.cert_pem.write_to_path(str(short / "authority.crt"))
    tls = TlsConfig(short / "server.crt", short / "server.key", short / "authority.crt")
    keys = [replace(MODERN, expires=NOW - timedelta(days=1))]
    nursery.start_soon(warn_daily, CertificatesInUse(tls), lambda: keys, lambda: picture(token("1", "a", 60)))
    await until(lambda: len(caplog.records) >= 3)
    day = [(record.levelno, record.getMessage()) for record in caplog.records[:3]]
    assert [level for level, _ in day] == [logging.ERROR, logging.WARNING, logging.WARNING]
    assert day[0][1].startswith("key modern expired on ")
    assert day[1][1].startswith("certificate of this oracle expires in 20 days, on ")
    assert day[2][1].startswith("token of a expires in 59 days, on ")
    await until(lambda: len(caplog.records) >= 6)
    assert [record.getMessage() for record in caplog.records[3:6]] == [words for _, words in day]


async def test_a_certificate_that_is_gone_does_not_hide_the_rest(
    short: Path, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    tls = TlsConfig(short / "server.crt", short / "server.key", short / "authority.crt")
    nursery.start_soon(warn_daily, CertificatesInUse(tls), lambda: (), lambda: picture(token("1", "a", 3)))
    await until(lambda: len(caplog.records) == 2)
    assert [record.getMessage().split(",")[0] for record in caplog.records] == [
        "the end of a certificate is not known",
        "token of a expires in 2 days",
    ]
