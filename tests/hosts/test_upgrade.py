"""New packages over running daemons, and a machine that starts again."""

import pytest

from tests.hosts.conftest import NEXT_VERSION
from tests.hosts.machine import Machine
from tests.hosts.work import load, sign

pytestmark = pytest.mark.hosts

_DAEMONS = ("blind-oracle-signer", "blind-oracle", "blind-oracle-relay")


def _pids(host: Machine) -> list[str]:
    return host.shell(f"systemctl show --value --property=MainPID {' '.join(_DAEMONS)}").split()


def test_an_upgrade_under_load_costs_no_signature(host: Machine) -> None:
    assert sign(host).status == 0
    before = _pids(host)
    with load(host) as builders:
        host.shell("apt-get install /packages/next/blind-oracle_*.deb /packages/next/blind-oracle-relay_*.deb")
        # The relay may wait for the next one who asks; each of them does so all the time.
    assert builders.failures == []
    assert builders.signed > 0
    assert host.shell("dpkg-query --show --showformat='${Version}' blind-oracle") == NEXT_VERSION
    after = _pids(host)
    assert "0" not in after
    assert set(before).isdisjoint(after)


def test_what_the_operator_wrote_is_kept_by_an_upgrade(host: Machine) -> None:
    assert "build-01" in host.shell("cat /etc/blind-oracle/policy.yaml")


def test_after_a_reboot_everything_is_there_again(host: Machine) -> None:
    counted = host.shell("blind-oracle audit query --runner build-01 --json | wc -l")
    host.halt()
    host.boot()
    signed = sign(host)
    assert signed.status == 0, signed.errors
    host.shell("blind-oracle audit verify")
    assert int(host.shell("blind-oracle audit query --runner build-01 --json | wc -l")) >= int(counted)
    assert host.run("systemctl", "--failed", "--plain", "--no-legend").output == ""
