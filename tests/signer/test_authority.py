"""The built-in certificate authority."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.signer_requests import CertificateKind
from agentproxy.signer.authority import Authority, create_authority

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def authority() -> Authority:
    return Authority.load(*create_authority("node1", NOW))


def test_a_server_certificate_passes_a_strict_verifier_for_its_hosts_only() -> None:
    ours = authority()
    issued = ours.issue(CertificateKind.SERVER, "node1", ("oracle.example.org", "127.0.0.1"), 90, NOW)
    store = Store([x509.load_pem_x509_certificate(ours.certificate)])
    leaf = x509.load_pem_x509_certificate(issued.certificate)
    builder = PolicyBuilder().store(store).time(NOW)
    builder.build_server_verifier(x509.DNSName("oracle.example.org")).verify(leaf, [])
    with pytest.raises(VerificationError):
        builder.build_server_verifier(x509.DNSName("other.example.org")).verify(leaf, [])
    with pytest.raises(VerificationError):
        builder.build_client_verifier().verify(leaf, [])


def test_a_client_certificate_names_its_runner_and_cannot_serve() -> None:
    ours = authority()
    issued = ours.issue(CertificateKind.CLIENT, "builder-1", (), 30, NOW)
    leaf = x509.load_pem_x509_certificate(issued.certificate)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["blind-oracle:runner:builder-1"]
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    store = Store([x509.load_pem_x509_certificate(ours.certificate)])
    PolicyBuilder().store(store).time(NOW).build_client_verifier().verify(leaf, [])


def test_an_oracles_certificate_begins_five_minutes_ago_and_ends_with_its_days() -> None:
    now = NOW + timedelta(days=100)
    issued = authority().issue(CertificateKind.SERVER, "node1", ("oracle.example.org",), 30, now)
    leaf = x509.load_pem_x509_certificate(issued.certificate)
    assert leaf.not_valid_before_utc == now - timedelta(minutes=5)
    assert leaf.not_valid_after_utc == issued.expires == now + timedelta(days=30)


def test_what_a_runner_got_while_the_clock_was_ahead_serves_when_it_is_right_again() -> None:
    ours = authority()
    issued = ours.issue(CertificateKind.CLIENT, "builder-1", (), 365, NOW + timedelta(days=300))
    leaf = x509.load_pem_x509_certificate(issued.certificate)
    store = Store([x509.load_pem_x509_certificate(ours.certificate)])
    PolicyBuilder().store(store).time(NOW).build_client_verifier().verify(leaf, [])


def test_a_certificate_never_outlives_its_authority() -> None:
    ours = authority()
    late = NOW + timedelta(days=3650)
    end = x509.load_pem_x509_certificate(ours.certificate).not_valid_after_utc
    assert ours.issue(CertificateKind.CLIENT, "builder-1", (), 30, late).expires == end
    with pytest.raises(RemoteProtocolError, match="expired"):
        ours.issue(CertificateKind.CLIENT, "builder-1", (), 30, end)


def test_every_certificate_has_a_key_and_a_serial_number_of_its_own() -> None:
    ours = authority()
    issued = [ours.issue(CertificateKind.CLIENT, "builder-1", (), 30, NOW) for _ in range(3)]
    assert len({each.private_key for each in issued}) == len({each.public_key_sha256 for each in issued}) == 3
    assert len({x509.load_pem_x509_certificate(each.certificate).serial_number for each in issued}) == 3


@pytest.mark.parametrize(
    ("kind", "name", "hosts", "days"),
    [
        (CertificateKind.CLIENT, "a\x00b", (), 30),
        (CertificateKind.CLIENT, "a b", (), 30),
        (CertificateKind.CLIENT, "builder", ("host",), 30),
        (CertificateKind.CLIENT, "builder", (), 0),
        (CertificateKind.CLIENT, "builder", (), 3661),
        (CertificateKind.SERVER, "node1", (), 30),
        (CertificateKind.SERVER, "node1", ("*.example.org",), 30),
        (CertificateKind.SERVER, "node1", ("a\x00.example.org",), 30),
        (CertificateKind.SERVER, "node1", ("host\n",), 30),
        (CertificateKind.SERVER, "node1", ("Host",), 30),
        (CertificateKind.SERVER, "node1", ("host", "host"), 30),
    ],
)
def test_a_bad_request_for_a_certificate_is_refused(
    kind: CertificateKind, name: str, hosts: tuple[str, ...], days: int
) -> None:
    with pytest.raises(RemoteProtocolError):
        authority().issue(kind, name, hosts, days, NOW)


def test_key_and_certificate_of_different_authorities_do_not_load() -> None:
    key, _ = create_authority("one", NOW)
    _, certificate = create_authority("two", NOW)
    with pytest.raises(ConfigError, match="not the certificate's"):
        Authority.load(key, certificate)
    with pytest.raises(ConfigError, match="PEM"):
        Authority.load(b"garbage", certificate)


def test_an_end_certificate_does_not_load_as_an_authority() -> None:
    issued = authority().issue(CertificateKind.CLIENT, "builder-1", (), 30, NOW)
    with pytest.raises(ConfigError, match="CA"):
        Authority.load(issued.private_key, issued.certificate)


def test_a_private_key_shows_in_no_repr() -> None:
    issued = authority().issue(CertificateKind.CLIENT, "builder-1", (), 30, NOW)
    assert "PRIVATE KEY" not in repr(issued)
