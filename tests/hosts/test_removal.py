"""Packages go, and what nobody could make again stays."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.machine import Machine, machine

pytestmark = pytest.mark.hosts

_STATE = "/etc/blind-oracle /etc/blind-oracle-relay /var/lib/blind-oracle*"


@pytest.fixture(name="other", scope="module")
def other_machine(packages: Path) -> Iterator[Machine]:
    """A machine for this alone, with an oracle that has begun."""
    with machine({"/packages": packages}) as made:
        made.boot()
        made.shell(
            "apt-get install --yes /packages/*.deb\n"
            "blind-oracle init --system --host oracle.example.org\n"
            "systemctl enable --now blind-oracle-signer.socket blind-oracle.socket blind-oracle.service\n"
            "systemctl enable --now blind-oracle-tunnel@far.service\n"
        )
        yield made


def test_the_client_for_builds_without_gpg_is_there(other: Machine) -> None:
    assert "repo" in other.shell("blind-oracle-sign --help")


def test_a_relay_that_was_removed_and_comes_back_is_started_again_and_at_boot(other: Machine) -> None:
    timer = "blind-oracle-keyrings.timer"
    assert (other.run("systemctl", "is-enabled", timer).output, other.run("systemctl", "is-active", timer).output) == (
        "enabled\n",
        "active\n",
    )
    other.shell("apt-get remove --yes blind-oracle-relay\napt-get install --yes /packages/blind-oracle-relay_*.deb")
    assert (other.run("systemctl", "is-enabled", timer).output, other.run("systemctl", "is-active", timer).output) == (
        "enabled\n",
        "active\n",
    )
    # An upgrade is none: what the operator has switched off meanwhile stays off.
    other.shell(f"systemctl disable {timer}\napt-get install --yes --reinstall /packages/blind-oracle-relay_*.deb")
    assert other.run("systemctl", "is-enabled", timer).output == "disabled\n"


def test_neither_removal_nor_purge_deletes_keys_log_or_registry(other: Machine) -> None:
    # Without the conffile, which purge takes, and what is written while it goes.
    but = "! -name policy.yaml ! -name '*.sqlite-*' ! -name '*.jsonl'"
    listing = f"find {_STATE} -type f {but} -exec sha256sum {{}} + | sort"
    other.shell("systemctl stop blind-oracle.service blind-oracle-signer.service blind-oracle-signer.socket")
    before = other.shell(listing)
    assert "registry.sqlite" in before
    assert "authority.key" in before
    log = other.shell("cat /var/lib/blind-oracle-audit/*.jsonl")
    other.shell("apt-get remove --yes blind-oracle blind-oracle-relay blind-oracle-client")
    said = other.run("dpkg", "--purge", "blind-oracle", "blind-oracle-relay")
    assert (said.status, other.shell(listing)) == (0, before)
    assert other.shell("cat /var/lib/blind-oracle-audit/*.jsonl").startswith(log)
    assert "blind-oracle: /var/lib/blind-oracle-audit stays; delete it by hand" in said.errors


def test_afterwards_nothing_of_ours_runs_or_is_left_in_usr(other: Machine) -> None:
    assert (
        other.run("systemctl", "list-units", "--state=active,failed", "--plain", "--no-legend", "blind-oracle*").output
        == ""
    )
    left = other.shell("find /usr /etc/systemd -name '*blind-oracle*' ! -path '/usr/share/doc/*'")
    assert left == ""
