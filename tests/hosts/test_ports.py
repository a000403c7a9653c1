"""What an installed oracle opens beside the port for relays, each behind its own socket unit: HTTP API and metrics."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.hosts.machine import Done, Machine

pytestmark = pytest.mark.hosts

SOCKETS = ("blind-oracle-http.socket", "blind-oracle-http-proxy.socket", "blind-oracle-metrics.socket")
PROXY = "/run/blind-oracle-http/http-proxy.sock"
API = "https://oracle.example.org:7444"
CONFIG = f"""
http:
  listen: 0.0.0.0:7444
  proxy: {{socket: {PROXY}, user: www-data}}
metrics: {{listen: "127.0.0.1:9464"}}
"""
# The relay's own credentials: on this machine there is one runner.
AS_THE_RUNNER = (
    "cd /var/lib/blind-oracle-relay/credentials/current\n"
    "curl --silent --show-error --cacert authority.crt --cert client.crt --key client.key"
    ' --header "Authorization: Bearer $(cat token)"'
)


# As deployment/nginx has it: the oracle makes the socket itself, and no unit is needed.
OWN_SOCKET = "/run/blind-oracle/http-proxy.sock"


@contextmanager
def configured(host: Machine, more: str, units: Sequence[str] = ()) -> Iterator[None]:
    """The oracle with more in its oracle.yaml and more units enabled; afterwards as it was."""
    host.shell("cp -a /etc/blind-oracle/oracle.yaml /root/oracle.yaml.before")
    host.write("/root/more.yaml", more)
    host.shell("cat /root/more.yaml >> /etc/blind-oracle/oracle.yaml")
    try:
        for unit in units:
            host.shell(f"systemctl enable {unit}")
        host.shell("systemctl restart blind-oracle.service")
        yield
    finally:
        for unit in units:
            host.shell(f"systemctl disable --now {unit}")
        host.shell("mv /root/oracle.yaml.before /etc/blind-oracle/oracle.yaml; systemctl restart blind-oracle.service")


@pytest.fixture(name="opened")
def everything_opened(host: Machine) -> Iterator[Machine]:
    """The oracle as docs/INSTALL.md has it with HTTP API, proxy and metrics."""
    host.shell("usermod --append --groups blind-oracle-http www-data")
    with configured(host, CONFIG, SOCKETS):
        yield host


def through_the_proxy(host: Machine, user: str, place: str = PROXY) -> Done:
    seen = ("--header", "X-SSL-Client-Verify: NONE", "--header", "X-Real-IP: 192.0.2.7")
    words = ("curl", "--silent", "--show-error", "--unix-socket", place, *seen, "http://oracle.example.org/health")
    return host.run(*words, user=user)


def test_a_caller_with_a_certificate_gets_a_signature_that_gpg_accepts(opened: Machine) -> None:
    statement = f"sha256:{'5a' * 32}"
    body = json.dumps({"repodata_hash": statement, "key_type": "modern"})
    answer = json.loads(opened.shell(f"{AS_THE_RUNNER} --json '{body}' {API}/sign/repodata"))
    opened.write("/tmp/statement.asc", answer["signature"])
    checked = opened.run("gpg", "--homedir", "/home/builder/signing", "--verify", "/tmp/statement.asc", "-",
                         user="builder", stdin=f"{statement}\n")  # fmt: skip
    assert checked.status == 0, checked.errors
    records = map(json.loads, opened.shell("blind-oracle audit tail --json").splitlines())
    (record,) = [record for record in records if record["sequence"] == answer["record"]["sequence"]]
    assert (record["operation"], record["asserted"]["channel"], record["asserted"]["runner"]) == (
        "seal",
        "http",
        "build-01",
    )


def test_the_proxys_user_comes_in_by_its_socket_and_nobody_else_reaches_it(opened: Machine) -> None:
    answer = through_the_proxy(opened, "www-data")
    assert (answer.status, json.loads(answer.output)["status"]) == (0, "ok"), answer.errors
    refused = through_the_proxy(opened, "builder")
    assert refused.status == 7  # of curl: no connection
    assert "Permission denied" in refused.errors or "Couldn't connect" in refused.errors


def test_prometheus_on_the_same_host_gets_the_numbers(opened: Machine) -> None:
    told = opened.shell("curl --silent --show-error --fail http://127.0.0.1:9464/metrics")
    assert "blind_oracle_signatures_total" in told


def test_a_restart_of_the_oracle_closes_none_of_its_ports(opened: Machine) -> None:
    opened.shell("systemctl restart blind-oracle.service")
    assert json.loads(opened.shell(f"{AS_THE_RUNNER} --fail {API}/health"))["status"] == "ok"
    assert through_the_proxy(opened, "www-data").status == 0
    opened.shell("curl --silent --fail --output /dev/null http://127.0.0.1:9464/metrics")
    assert opened.shell(f"systemctl is-active {' '.join(SOCKETS)}") == "active\nactive\nactive\n"


def test_without_a_unit_the_oracle_makes_the_proxys_socket_itself(host: Machine) -> None:
    with configured(host, f'http: {{proxy: {{socket: {OWN_SOCKET}, user: www-data, mode: "0666"}}}}'):
        assert through_the_proxy(host, "www-data", OWN_SOCKET).status == 0
        assert through_the_proxy(host, "builder", OWN_SOCKET).status != 0


def test_a_relay_from_its_package_tells_its_numbers(host: Machine) -> None:
    host.shell("cp -a /etc/blind-oracle-relay/relay.yaml /root/relay.yaml.before")
    try:
        host.shell("echo 'metrics: {listen: \"127.0.0.1:9465\"}' >> /etc/blind-oracle-relay/relay.yaml")
        host.shell("systemctl restart blind-oracle-relay.service")
        told = host.shell("curl --silent --show-error --fail http://127.0.0.1:9465/metrics")
        assert "blind_oracle_relay_oracle_up" in told
    finally:
        host.shell("mv /root/relay.yaml.before /etc/blind-oracle-relay/relay.yaml")
        host.shell("systemctl restart blind-oracle-relay.service")
