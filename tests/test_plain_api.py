"""The application that the bench holds the HTTP API against."""

from pathlib import Path

import pytest
import trustme

from bench.framed_load import Access
from bench.http_load import HttpLoad, plain_api


@pytest.fixture
def access(tmp_path: Path) -> Access:
    """A runner's, with the server's credentials in the same directory."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.crt")
    for name, leaf in {"server": authority.issue_cert("oracle"), "runner": authority.issue_cert("runner")}.items():
        leaf.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.crt")
        leaf.private_key_pem.write_to_path(tmp_path / f"{name}.key")
    places = (tmp_path / name for name in ("authority.crt", "runner.crt", "runner.key"))
    return Access("", "oracle", *places, "token")


def test_it_signs_what_the_api_is_asked_for(access: Access, tmp_path: Path) -> None:
    with plain_api(tmp_path) as address, HttpLoad(access, address) as load:
        measured = load.round(0.25)  # which raises for an answer that is no 200
    assert measured.rate > 0
    assert 0 < measured.p50 <= measured.p99


def test_one_that_cannot_start_is_no_wait(access: Access, tmp_path: Path) -> None:
    (tmp_path / "server.key").unlink()
    with plain_api(tmp_path) as address, pytest.raises(ConnectionError):
        HttpLoad(access, address)
