"""What the relay keeps on disk: heads and the parsed configuration."""

import json
import ssl
from pathlib import Path

import pytest
import trio
import trio.testing

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.messages import FROM_RELAY
from agentproxy.protocol.relay_messages import MAX_HEADS, Hello
from agentproxy.runtime import config as runtime_config
from relay.config import OracleAddress, RelayConfig, load_config
from relay.headkeeping import TendedHeads

YAML = """\
name: b1
oracles: [{address: "127.0.0.1:7443", server_name: localhost}]
authority: authority.crt
certificate: client.crt
key: client.key
token: token
state: state
sockets: [{path: run/S.gpg-agent}]
"""


def head(sequence: int, digit: str = "a") -> Head:
    return Head("node-a", sequence, bytes.fromhex(digit * 64))


async def test_the_newest_head_is_there_after_a_restart(tmp_path: Path) -> None:
    heads = TendedHeads(tmp_path / "heads.json")
    await kept(heads, head(7), head(6))  # an answer that was overtaken
    again = TendedHeads(tmp_path / "heads.json")
    again.load()

    assert again.all() == (head(7),)


async def test_of_two_that_keep_one_file_the_later_head_stays(tmp_path: Path) -> None:
    relay, client = (TendedHeads(tmp_path / "heads.json") for _ in range(2))
    await kept(relay, head(7))
    client.load()
    await kept(client, head(9), Head("node-b", 1, bytes(32)))
    await kept(relay, head(8))
    again = TendedHeads(tmp_path / "heads.json")
    again.load()

    assert set(again.all()) == {head(9), Head("node-b", 1, bytes(32))}


async def kept(heads: TendedHeads, *told: Head) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heads.keep)
        for one in told:
            heads.note(one)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


def test_another_hash_at_the_same_place_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    heads = TendedHeads(tmp_path / "heads.json")
    heads.note(head(7))
    heads.note(head(7, "b"))

    assert "rewritten" in caplog.text
    assert heads.all() == (head(7),)


def test_a_log_that_ends_before_what_was_seen_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    heads = TendedHeads(tmp_path / "heads.json")
    heads.welcomed(head(7))
    heads.note(head(6))  # an answer that was overtaken
    assert caplog.text == ""

    heads.welcomed(head(5))

    assert "was cut" in caplog.text
    assert heads.all() == (head(7),)


@pytest.mark.parametrize(
    "damage", [b"", b"[]", b"{}", b'{"heads": [1]}', b"\xff", b'{"heads": [{"node": "../a"}]}', b"[" * 200_000]
)
def test_damaged_heads_are_no_reason_not_to_start(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "heads.json").write_bytes(damage)
    heads = TendedHeads(tmp_path / "heads.json")
    heads.load()

    assert heads.all() == ()


def node(number: int) -> Head:
    return Head(f"node-{number}", 1, bytes(32))


def test_of_many_nodes_those_that_were_heard_of_last_stay_and_the_rest_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heads = TendedHeads(tmp_path / "heads.json")
    for number in range(MAX_HEADS):
        heads.note(node(number))
    heads.note(node(0))  # idle, and alive
    assert caplog.text == ""

    heads.note(node(MAX_HEADS))

    assert heads.all() == (*map(node, range(2, MAX_HEADS)), node(0), node(MAX_HEADS))
    assert "forgotten, node=node-1 sequence=1 hash=000" in caplog.text
    assert FROM_RELAY.encode(Hello(1, "t" * 256, "s" * 64, heads.all()))


def test_a_file_with_more_nodes_than_a_hello_holds_is_read_from_its_end(tmp_path: Path) -> None:
    plain = [{"node": f"node-{number}", "sequence": 1, "hash": "00" * 32} for number in range(MAX_HEADS + 1)]
    (tmp_path / "heads.json").write_text(json.dumps({"heads": plain}))
    heads = TendedHeads(tmp_path / "heads.json")
    heads.load()

    assert heads.all() == tuple(map(node, range(1, MAX_HEADS + 1)))


def test_a_file_that_is_replaced_while_it_is_read_is_not_kept_as_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "relay.yaml"
    file.write_text(YAML)
    load = runtime_config.load

    def replaced_afterwards(path: Path, cls: type[RelayConfig]) -> RelayConfig:
        found = load(path, cls)
        (tmp_path / "new").write_text(YAML + "deadline_seconds: 7\n")
        (tmp_path / "new").replace(file)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(runtime_config, "load", replaced_afterwards)
        assert load_config(file).deadline_seconds == 30
    assert load_config(file).deadline_seconds == 7


@pytest.mark.parametrize(
    "name", ["oracle2..example.org", ".example", ".", "a..", f"{'a' * 64}.example", f"{'a.' * 127}example"]
)
def test_a_name_of_an_oracle_that_nobody_can_look_up_is_refused_with_its_place(tmp_path: Path, name: str) -> None:
    file = tmp_path / "relay.yaml"
    file.write_text(YAML.replace("127.0.0.1:7443", f"{name}:7443"))
    with pytest.raises(ConfigError, match=r"relay\.yaml: oracles\[0\]: address: expected (a host's name|host:port)"):
        load_config(file)


@pytest.mark.parametrize(
    "name", ["", ".example", "a..b", "a" * 64, "a." * 150, "a b", "\u00e9" * 64, "\u00e9..x", "*.example"]
)
def test_a_server_name_that_tls_does_not_take_is_refused_with_its_place(tmp_path: Path, name: str) -> None:
    file = tmp_path / "relay.yaml"
    file.write_text(YAML.replace("localhost", json.dumps(name)))
    with pytest.raises(ConfigError, match=r"relay\.yaml: oracles\[0\]: server_name: expected a host's name"):
        load_config(file)


def test_a_server_name_with_the_character_0_is_none_wherever_it_comes_from() -> None:
    with pytest.raises(ConfigError, match="server_name: expected a host's name"):
        OracleAddress("[::1]:7443", "a\0b")


@pytest.mark.parametrize(
    "name", ["a", "A.b-c_d.example.", "127.0.0.1", "::1", "fe80::1", "b\u00fccher.example", "a" * 63]
)
def test_a_server_name_that_tls_takes_is_taken(name: str) -> None:
    taken = OracleAddress("[::1]:7443", name).server_name
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=taken)
    assert tls.server_hostname == name.encode("idna").decode("ascii")


def test_over_ssh_the_server_name_is_not_looked_at() -> None:
    assert OracleAddress("ssh://relay@oracle.example", "").ssh is not None


def test_the_configuration_is_the_same_with_and_without_what_was_kept_of_it(tmp_path: Path) -> None:
    file = tmp_path / "relay.yaml"
    file.write_text(YAML)
    first = load_config(file)
    assert (tmp_path / ".relay.yaml.parsed").exists()

    assert load_config(file) == first
    assert first.state == tmp_path / "state"


def test_a_changed_file_counts_at_once(tmp_path: Path) -> None:
    file = tmp_path / "relay.yaml"
    file.write_text(YAML)
    load_config(file)
    file.write_text(YAML + "deadline_seconds: 7\n")

    assert load_config(file).deadline_seconds == 7
    file.write_text(YAML + "deadline_second: 7\n")
    with pytest.raises(ConfigError, match="deadline_second"):
        load_config(file)


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"of": 1}', "\u00ff", "[" * 200_000])
def test_a_damaged_remainder_is_not_used(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "relay.yaml"
    file.write_text(YAML)
    first = load_config(file)
    (tmp_path / ".relay.yaml.parsed").write_text(damage)

    assert load_config(file) == first


def test_a_remainder_of_another_directory_is_not_used(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    (one / "relay.yaml").write_text(YAML)
    load_config(one / "relay.yaml")
    one.rename(two)

    assert load_config(two / "relay.yaml").state == two / "state"
