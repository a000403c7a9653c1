"""A build server signs by itself: unmodified gpg and rpmsign, a real gpg-agent with the host's own key, the record."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.fallbackhost import FallbackHost, allow, fallback_host
from tests.end_to_end.offline import Offline, offline_machine
from tests.end_to_end.packages import build_packages
from tests.end_to_end.place import until


@pytest.fixture(name="machine", scope="module")
def machine_with_a_subkey_for_the_host() -> Iterator[tuple[Offline, str]]:
    """An offline machine whose one certificate has the oracle's subkey and, newer, the host's: FPR of the latter."""
    with offline_machine() as offline:
        offline.make("modern", "rsa2048")
        offline.gpg("--quick-add-key", offline.primaries["modern"], "rsa2048", "sign", "1y")
        own = offline.column("modern@example.org", "fpr")[2]
        (offline.home / "own.secret").write_bytes(offline.gpg("--export-secret-subkeys", f"{own}!"))
        yield offline, own


@pytest.fixture(name="made", scope="module")
def made_host(machine: tuple[Offline, str]) -> Iterator[FallbackHost]:
    offline, own = machine
    with fallback_host(offline, "--import", str(offline.home / "own.secret")) as host:
        assert host.own == own
        yield host


@pytest.fixture(name="host")
def host_that_signs_by_the_oracle(made: FallbackHost) -> FallbackHost:
    made.system.start()
    until(made.system.is_connected, "the relay reaches the oracle")
    allow(made.system)
    made.off()
    return made


def test_gpg_takes_the_hosts_newer_subkey_by_itself_while_fallback_is_active_and_the_oracles_otherwise(
    host: FallbackHost, machine: tuple[Offline, str]
) -> None:
    system, (offline, own) = host.system, machine
    assert system.is_good(system.sign().stdout, offline.fingerprints["modern"])
    host.on(reason="drill of the year")
    done = system.sign()
    assert done.returncode == 0, done.stderr
    assert system.is_good(done.stdout, own)
    host.off()
    assert system.is_good(system.sign().stdout, offline.fingerprints["modern"])


def test_every_local_signature_is_in_the_journal_in_status_in_the_log_and_in_the_oracles_audit_log(
    host: FallbackHost,
) -> None:
    system, before = host.system, len(host.delivered())
    host.on(reason="drill of the year")
    assert system.sign().returncode == 0
    until(host.all_is_delivered, "the journal is delivered")
    entry, [record] = host.records()[-1], host.delivered()[before:]
    assert entry["operation"] == "sign"
    assert entry["reason"] == "drill of the year"
    digest, details = entry["digest"], record["details"]
    assert isinstance(digest, dict)
    assert isinstance(details, dict)
    assert record["asserted"]["channel"] == "fallback"  # type: ignore[index]  any JSON
    assert record["asserted"]["runner"] == "dev"  # type: ignore[index]
    assert (record["digest"], record["outcome"], record["reason"]) == (digest["value"], "done", "")
    assert record["signature_sha256"] == entry["signature_sha256"]
    assert (details["journal"], details["sequence"]) == (entry["journal"], str(entry["sequence"]))
    assert (details["fingerprint"], details["mode"]) == (host.own, "forced")
    assert system.last()[0]["fallback"] == "forced"
    assert f"request={record['request']} " in system.log("relay")
    assert "fallback=forced" in system.log("relay").rpartition(f"signed, request={record['request']}")[2]
    assert host.status["active"] is True
    assert host.fallback("verify").returncode == 0


def test_rpmsign_signs_a_package_by_the_hosts_key(
    host: FallbackHost, tmp_path: Path, machine: tuple[Offline, str]
) -> None:
    system, (offline, own) = host.system, machine
    [package] = build_packages(tmp_path, ["hello"])
    host.on()
    macros = ("--define", "_gpg_name modern@example.org", "--define", "__gpg /usr/bin/gpg")
    done = system.run("rpmsign", *macros, "--addsign", package)
    assert done.returncode == 0, done.stderr
    (tmp_path / "key.asc").write_bytes(offline.public("modern"))
    system.run("rpmkeys", "--dbpath", tmp_path / "db", "--import", tmp_path / "key.asc")
    shown = system.run("rpmkeys", "--dbpath", tmp_path / "db", "-K", "-v", package)
    assert shown.returncode == 0, shown.stdout
    assert own[-8:].lower() in shown.stdout.lower()


def test_the_oracles_subkey_named_outright_is_not_there_while_fallback_is_active(
    host: FallbackHost, machine: tuple[Offline, str]
) -> None:
    system, (offline, own) = host.system, machine
    host.on()
    pinned = f"{offline.fingerprints['modern']}!"
    done = system.gpg("--local-user", pinned, "--detach-sign", text="some text")
    assert done.returncode == 2
    assert "Unusable secret key" in done.stderr
    done = system.gpg("--local-user", f"{own}!", "--armor", "--detach-sign", text="some text")
    assert system.is_good(done.stdout, own)
    host.off()
    done = system.gpg("--local-user", f"{own}!", "--detach-sign", text="some text")
    assert done.returncode == 2


def test_switching_off_works_at_once_and_is_kept_across_a_restart_with_its_reason(host: FallbackHost) -> None:
    host.on("90m", reason="the oracle moves")
    host.kill("relay")
    host.system.start()
    status = host.status
    assert (status["mode"], status["active"], status["reason"]) == ("forced", True, "the oracle moves")
    left = status["seconds_left"]
    assert isinstance(left, int)
    assert 5000 < left <= 5400
    host.off()
    assert host.status["active"] is False


def test_the_oracles_policy_is_stronger_than_an_operators_command_also_offline(
    host: FallbackHost, machine: tuple[Offline, str]
) -> None:
    system, (offline, _) = host.system, machine
    host.on()
    allow(system, allowed=False)
    assert system.is_good(system.sign().stdout, offline.fingerprints["modern"])
    refused = host.fallback("on", "--for", "2h", "--reason", "again")
    assert refused.returncode == 1
    assert "runners.dev.fallback: true" in refused.stderr
    system.stop("oracle")
    host.kill("relay")
    system.start("relay")
    refused = host.fallback("on", "--for", "2h", "--reason", "again")
    assert refused.returncode == 1
    assert "the oracle forbids it" in refused.stderr
    count = len(host.records())
    assert system.sign().returncode == 2
    assert len(host.records()) == count


def test_dangerous_commands_are_refused_in_fallback_too(host: FallbackHost) -> None:
    host.on()
    for words in (
        ("--export-secret-keys",),
        ("--decrypt",),
        ("--quick-add-key", host.own, "rsa2048", "sign", "1y"),
    ):
        host.system.gpg(*words, text="x")
    assert not host.system.gpg("--export-secret-keys").stdout
    done = host.system.run("gpgconf", "--kill", "gpg-agent")
    assert done.returncode == 0
    assert host.system.sign().returncode == 0


def test_nobody_but_root_and_the_relays_user_switches(host: FallbackHost) -> None:
    done = host.fallback("on", "--reason", "without a bound")
    assert done.returncode == 2
    done = host.fallback("on", "--for", "30d", "--reason", "too long")
    assert done.returncode == 1
    assert "7 days" in done.stderr


def test_with_a_certificate_of_its_own_the_host_signs_for_whoever_names_no_key_or_that_one(
    machine: tuple[Offline, str],
) -> None:
    offline, _ = machine
    with fallback_host(offline) as host:
        system = host.system
        host.on()
        done = system.gpg("--armor", "--detach-sign", text="some text")
        assert system.is_good(done.stdout, host.own)
        # The other certificate has no key here, so its name leads nowhere: no signature by surprise.
        done = system.sign()
        assert done.returncode == 2
        assert "No secret key" in done.stderr
        done = system.gpg("--local-user", "dev fallback", "--armor", "--detach-sign", text="some text")
        assert system.is_good(done.stdout, host.own)
        host.off()
        done = system.gpg("--armor", "--detach-sign", text="some text")
        assert system.is_good(done.stdout, offline.fingerprints["modern"])
