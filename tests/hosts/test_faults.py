"""What goes wrong on real hosts: owners and modes, a full disk, no IPv6, a clock that is not set."""

import re
from collections.abc import Iterator

import pytest

from agentproxy.signer.segment import ZEROS_AHEAD
from tests.hosts.machine import Machine
from tests.hosts.work import sign

pytestmark = pytest.mark.hosts

KEYS = "/var/lib/blind-oracle-signer/gnupg/private-keys-v1.d"
AUDIT = "/var/lib/blind-oracle-audit"
REGISTRY = "/var/lib/blind-oracle/registry.sqlite"
TRIES = 40  # a daemon that waits tries again within seconds, and each signature waits for it
PAGE, SMALLEST_RECORD = 4096, 400  # bytes; a signature's record has some 700


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ("chmod 755", "/var/lib/blind-oracle-signer/gnupg"),
        ("chmod 644", f"{KEYS}/*.key"),
        ("chmod 644", "/etc/blind-oracle/signer/authority.key"),
        ("chmod 755", "/etc/blind-oracle/signer/passphrases"),
        ("chmod 644", "/etc/blind-oracle/signer/passphrases/modern"),
        ("chmod 666", "/etc/blind-oracle/signer/keys.yaml"),
        ("chmod 644", "/etc/blind-oracle/tls/server.key"),
        ("chmod 666", "/etc/blind-oracle/policy.yaml"),
        ("chmod 777", AUDIT),
        ("chown blind-oracle", AUDIT),
        ("chown root", REGISTRY),
        ("chown blind-oracle-signer", REGISTRY),
        ("chown root", f"{KEYS}/*.key"),
        ("chown blind-oracle", KEYS),
    ],
)
def test_a_wrong_owner_or_mode_is_found_by_the_daily_look(change: str, path: str, host: Machine) -> None:
    before = host.shell(f"stat --format='chmod %a %n; chown %u:%g %n' {path}")
    host.shell(f"{change} {path}")
    try:
        found = host.run("blind-oracle", "check", "--quiet")
    finally:
        host.shell(before)
    assert found.status == 2
    assert re.search(path.replace("*", ".*"), found.output), found.output


def test_the_daily_look_fails_as_a_unit_when_somebody_must_act(host: Machine) -> None:
    host.shell("systemctl start blind-oracle-check.service; chmod 666 /etc/blind-oracle/policy.yaml")
    try:
        assert host.run("systemctl", "start", "blind-oracle-check.service").status != 0
    finally:
        host.shell("chmod 644 /etc/blind-oracle/policy.yaml; systemctl start blind-oracle-check.service")
    assert "policy.yaml: others may change it" in host.journal("--unit=blind-oracle-check.service")


@pytest.fixture(name="signer")
def signer_restarted(host: Machine) -> Iterator[Machine]:
    yield host
    host.shell("systemctl reset-failed; systemctl restart blind-oracle-signer.service")


def test_a_signer_whose_keys_others_may_read_does_not_start_and_says_why(signer: Machine) -> None:
    home = "/var/lib/blind-oracle-signer/gnupg"
    signer.shell(f"chmod 755 {home}")
    try:
        assert signer.run("systemctl", "restart", "blind-oracle-signer.service").status != 0
    finally:
        signer.shell(f"chmod 700 {home}")
    said = signer.journal("--unit=blind-oracle-signer.service", "--lines=20")
    assert f"{home}: others may look into it (mode 0755), expected 0700" in said


def test_a_missing_credential_stops_the_start_and_is_named(signer: Machine) -> None:
    key = "/etc/blind-oracle/signer/authority.key"
    signer.shell(f"mv {key} {key}.away")
    try:
        assert signer.run("systemctl", "restart", "blind-oracle-signer.service").status != 0
        found = signer.run("blind-oracle", "check", "--quiet").output
    finally:
        signer.shell(f"mv {key}.away {key}")
    # systemd says what kind of thing is missing, and our look says which.
    assert "status=243/CREDENTIALS" in signer.journal("--unit=blind-oracle-signer.service")
    assert f"{key}: is missing" in found


def test_a_passphrase_may_lie_encrypted_on_the_disk(signer: Machine) -> None:
    plain, encrypted = (f"/etc/blind-oracle/signer/{kind}/modern" for kind in ("passphrases", "encrypted"))
    signer.shell(f"systemd-creds encrypt --name=encrypted_modern {plain} {encrypted}; mv {plain} /root/kept")
    try:
        signer.shell("systemctl restart blind-oracle-signer.service")
        assert _signs(signer)
    finally:
        signer.shell(f"mv /root/kept {plain}; rm {encrypted}")


def _signs(host: Machine) -> bool:
    return any(sign(host).status == 0 for _ in range(TRIES))


def test_on_a_full_disk_nothing_is_signed_and_room_is_all_it_needs(host: Machine) -> None:
    # gpg locks its home; this one lies in memory.
    host.shell("mkdir -m 700 /tmp/signing; blind-oracle-relay setup --home /tmp/signing", user="builder")
    assert _signs(host)
    with host.full_disk():
        # The zeros ahead of the log's end, and the rest of its last page, still take records.
        tried = (sign(host, "/tmp/signing") for _ in range(1 + (ZEROS_AHEAD + PAGE) // SMALLEST_RECORD))
        failed = next(one for one in tried if one.status != 0)
        looked = host.run("blind-oracle", "check", "--quiet")
        # It comes up or not, by whether its first record, which is short, still fits into that page.
        host.run("systemctl", "restart", "blind-oracle-signer.service")
        after_restart = sign(host, "/tmp/signing")
    assert failed.status != 0
    assert "Not operational" in failed.errors
    assert looked.status == 2
    assert after_restart.status != 0
    assert _signs(host)
    host.shell("systemctl reset-failed; blind-oracle audit verify")


def test_a_host_without_ipv6_signs(host: Machine) -> None:
    units = ("blind-oracle.service", "blind-oracle-relay.service")
    # The oracle has no network of its own at all; its sockets are systemd's.
    only = "[Service]\nRestrictAddressFamilies=\nRestrictAddressFamilies=AF_UNIX AF_INET\n"
    host.write(f"/run/systemd/system/{units[1]}.d/no-ipv6.conf", only)
    host.shell(
        "sysctl --quiet --write net.ipv6.conf.all.disable_ipv6=1; systemctl daemon-reload\n"
        f"systemctl stop {' '.join(units)}; systemctl restart blind-oracle.socket"
    )
    try:
        assert _signs(host)
        assert "[::1]" not in host.shell("ss --tcp --no-header state established")
    finally:
        host.shell("sysctl --quiet --write net.ipv6.conf.all.disable_ipv6=0; rm /run/systemd/system/*/no-ipv6.conf")
        host.shell(f"systemctl daemon-reload; systemctl stop {' '.join(units)}; systemctl restart blind-oracle.socket")


def test_a_relay_whose_clock_is_not_set_yet_waits_and_says_so(host: Machine) -> None:
    unit, told = "blind-oracle-relay.service", "/etc/told-time"
    names = {
        "LD_PRELOAD": "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
        "FAKETIME_TIMESTAMP_FILE": told,
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DISABLE_SHM": "1",
    }
    host.write(told, "-3000d")
    lines = "".join(f"Environment={name}={value}\n" for name, value in names.items())
    host.write(f"/run/systemd/system/{unit}.d/clock.conf", f"[Service]\n{lines}")
    try:
        host.shell(f"systemctl daemon-reload; systemctl restart {unit}")
        started = host.shell(f"systemctl show --value --property=MainPID {unit}")
        failed = sign(host)
        assert failed.status != 0
        assert "Network error" in failed.errors
        assert re.search("not (yet valid|valid yet)", host.journal(f"--unit={unit}"))
        host.write(told, "+0")
        assert _signs(host)
        assert (
            host.shell(f"systemctl show --value --property=MainPID {unit}") == started
        )  # it waited, and needed no help
    finally:
        host.shell(f"rm /run/systemd/system/{unit}.d/clock.conf; systemctl daemon-reload; systemctl restart {unit}")
