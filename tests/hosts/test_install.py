"""What stands after docs/INSTALL.md was followed."""

import pytest

from tests.hosts.machine import Machine

pytestmark = pytest.mark.hosts


def test_an_unprivileged_user_signed_an_rpm_by_the_manual(host: Machine) -> None:
    checked = host.shell("rpmkeys --dbpath /var/lib/test-rpm --checksig /home/builder/hello.rpm")
    assert "digests signatures OK" in checked


def test_everything_is_well(host: Machine) -> None:
    found = host.run("blind-oracle", "check", "--quiet")
    assert (found.status, found.output, found.errors) == (0, "", "")
    assert host.run("systemctl", "--failed", "--plain", "--no-legend").output == ""


def test_the_audit_log_names_the_user_and_the_command_that_asked(host: Machine) -> None:
    record = host.shell("blind-oracle audit query --runner build-01 --json")
    assert '"builder"' in record
    assert "rpmsign --addsign hello.rpm" in record


def test_each_daemon_is_a_user_of_its_own_and_tells_how_it_is(host: Machine) -> None:
    for unit, user in (
        ("blind-oracle-signer", "blind-oracle-signer"),
        ("blind-oracle", "blind-oracle"),
        ("blind-oracle-relay", "blind-oracle-relay"),
    ):
        shown = host.shell(f"systemctl show --property=MainPID,StatusText,WatchdogUSec,Type {unit}")
        facts = dict(line.split("=", 1) for line in shown.splitlines())
        assert host.shell(f"ps -o user:32= -p {facts['MainPID']}").strip() == user
        assert facts["StatusText"]
        assert (facts["Type"], facts["WatchdogUSec"]) == ("notify", "30s")


def test_the_programs_have_pages_and_completions(host: Machine) -> None:
    for program in ("blind-oracle", "blind-oracle-relay"):
        page = host.run("bash", "-c", f"zcat /usr/share/man/man1/{program}.1.gz | groff -man -Kutf8 -Tutf8 -ww -P-cbou")
        assert (page.status, page.errors) == (0, "")
        assert "--help" in page.output
        host.shell(f"bash -n /usr/share/bash-completion/completions/{program}")


def test_who_is_not_in_the_group_gets_no_signature(host: Machine) -> None:
    host.shell("id stranger 2>/dev/null || useradd --create-home stranger")
    tried = host.run(
        "socat", "-u", "OPEN:/dev/null", "UNIX-CONNECT:/run/blind-oracle-relay/S.gpg-agent", user="stranger"
    )
    assert tried.status != 0
    assert "Permission denied" in tried.errors
