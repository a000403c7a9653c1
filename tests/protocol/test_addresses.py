import pytest

from agentproxy.protocol.addresses import SshAddress
from agentproxy.protocol.errors import RemoteProtocolError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ssh://oracle@host", SshAddress("oracle", "host", None)),
        ("ssh://blind-oracle@oracle.example.org:2222", SshAddress("blind-oracle", "oracle.example.org", 2222)),
        ("ssh://o@10.0.0.1:22", SshAddress("o", "10.0.0.1", 22)),
        ("ssh://o@[fd00::1]:22", SshAddress("o", "fd00::1", 22)),
        ("ssh://o@[::1]", SshAddress("o", "::1", None)),
    ],
)
def test_an_address_is_user_host_and_perhaps_a_port(text: str, address: SshAddress) -> None:
    assert SshAddress.parse(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "ssh://host",
        "ssh://@host",
        "ssh://-oProxyCommand=id@host",
        "ssh://o@-oProxyCommand=id",
        "ssh://o@host:0",
        "ssh://o@host:65536",
        "ssh://o@host:",
        "ssh://o@host:22\n",
        "ssh://o@ho st",
        "ssh://o:password@host",
        "ssh://o@host/path",
        "ssh://o@fd00::1",
        "SSH://o@host",
        "host:22",
        "",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError, match="expected ssh://user@host"):
        SshAddress.parse(text)
