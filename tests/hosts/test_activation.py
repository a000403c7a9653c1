"""Sockets that systemd holds: daemons come and go behind them."""

from collections.abc import Iterator

import pytest

from tests.hosts.machine import Machine
from tests.hosts.work import load, sign

pytestmark = pytest.mark.hosts

RELAY = ("blind-oracle-relay.socket", "blind-oracle-relay-control.socket")


@pytest.fixture(name="mended")
def mended_units(host: Machine) -> Iterator[Machine]:
    """The host, whose units are put back afterwards."""
    host.shell("rm -rf /root/units; cp -a /usr/lib/systemd/system /root/units")
    yield host
    host.shell(
        "cp -a /root/units/blind-oracle* /usr/lib/systemd/system/; systemctl daemon-reload\n"
        f"systemctl reset-failed; systemctl restart {' '.join(RELAY)}"
    )


def test_a_stopped_relay_is_started_again_by_the_next_signature(host: Machine) -> None:
    host.shell("systemctl stop blind-oracle-relay.service")
    assert host.run("systemctl", "is-active", "blind-oracle-relay.service").output == "inactive\n"
    signed = sign(host)
    assert signed.status == 0, signed.errors
    assert host.run("systemctl", "is-active", "blind-oracle-relay.service").output == "active\n"


@pytest.mark.parametrize("daemon", ["blind-oracle-relay", "blind-oracle", "blind-oracle-signer"])
def test_a_daemon_that_is_killed_comes_back_and_no_signature_fails(daemon: str, host: Machine) -> None:
    before = host.shell(f"systemctl show --value --property=MainPID {daemon}").strip()
    with load(host) as builders:
        # A relay that dies takes its open conversations along; what the other two do not answer is asked again.
        how = "SIGTERM" if daemon == "blind-oracle-relay" else "SIGKILL"
        host.shell(f"systemctl kill --kill-whom=main --signal={how} {daemon}")
        _wait_for_another(host, daemon, before)
    assert builders.failures == []
    assert builders.signed > 0


def _wait_for_another(host: Machine, daemon: str, before: str) -> None:
    # A signature is what starts the relay; and it takes a moment, so that we do not ask without pause.
    one = "runuser -u builder -- gpg --homedir ~builder/signing --batch --yes -o /dev/null -b /etc/hostname || true"
    pid = f"$(systemctl show --value --property=MainPID {daemon})"
    host.shell(f"for ((i = 0; i < 100; i++)); do {one}; case {pid} in 0|{before}) ;; *) exit 0 ;; esac; done; exit 1")


@pytest.mark.parametrize(
    ("command", "daemon", "told"),
    [
        ("blind-oracle reload", "blind-oracle", "policy reloaded"),
        ("systemctl reload blind-oracle", "blind-oracle", "policy reloaded"),
        ("systemctl reload blind-oracle-signer", "blind-oracle-signer", "keys reloaded"),
    ],
)
def test_a_reload_reaches_the_daemon_in_its_sandbox_and_ends_nothing(
    command: str, daemon: str, told: str, host: Machine
) -> None:
    assert sign(host).status == 0  # starts whatever is not there yet
    pid, count = f"systemctl show --value --property=MainPID {daemon}", f'journalctl -u {daemon} | grep -c "{told}"'
    before, times = host.shell(pid), int(host.shell(f"{count} || true"))
    host.shell(command)
    host.shell(f"timeout 30 bash -c 'until [ $({count}) -gt {times} ]; do sleep 0.1; done'")
    assert host.shell(pid) == before
    assert host.shell(f"systemctl is-active {daemon}") == "active\n"


def test_a_socket_without_its_service_is_refused_by_name_and_gpg_hears_it_at_once(mended: Machine) -> None:
    mended.shell(f"systemctl stop blind-oracle-relay.service {' '.join(RELAY)}")
    mended.shell("rm /usr/lib/systemd/system/blind-oracle-relay.service; systemctl daemon-reload")
    started = mended.run("systemctl", "start", "blind-oracle-relay.socket")
    assert started.status != 0
    assert "blind-oracle-relay.service not loaded" in mended.journal("--unit=blind-oracle-relay.socket")
    assert "No agent running" in sign(mended).errors


def test_a_service_brings_its_sockets_along(host: Machine) -> None:
    host.shell(f"systemctl stop blind-oracle-relay.service {' '.join(RELAY)}")
    host.shell("systemctl start blind-oracle-relay.service")
    assert host.shell(f"systemctl is-active {' '.join(RELAY)}") == "active\nactive\n"
    assert sign(host).status == 0


def test_a_service_whose_socket_is_missing_does_not_start_and_names_it(mended: Machine) -> None:
    mended.shell(f"systemctl stop blind-oracle-relay.service {' '.join(RELAY)}")
    mended.shell("rm /usr/lib/systemd/system/blind-oracle-relay.socket; systemctl daemon-reload")
    started = mended.run("systemctl", "start", "blind-oracle-relay.service")
    assert started.status != 0
    assert "blind-oracle-relay.socket not found" in started.errors


def test_the_keyrings_unit_brings_new_keys_to_a_home_that_root_has_set_up(host: Machine) -> None:
    host.shell("blind-oracle-relay setup --home /var/lib/signing")
    host.shell("systemctl start blind-oracle-keyrings.service")
    listed = host.shell("gpg --homedir /var/lib/signing --no-autostart --with-colons --list-keys")
    assert "locked@example.org" in listed
