"""What the relay keeps on disk: heads and the parsed configuration."""

from pathlib import Path

import pytest
import trio
import trio.testing

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.fields import Head
from relay.config import load_config
from relay.heads import Heads

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
    heads = Heads(tmp_path / "heads.json")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heads.keep)
        heads.note(head(7))
        heads.note(head(6))  # an answer that was overtaken
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    again = Heads(tmp_path / "heads.json")
    again.load()

    assert again.all() == (head(7),)


def test_another_hash_at_the_same_place_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    heads = Heads(tmp_path / "heads.json")
    heads.note(head(7))
    heads.note(head(7, "b"))

    assert "rewritten" in caplog.text
    assert heads.all() == (head(7),)


def test_a_log_that_ends_before_what_was_seen_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    heads = Heads(tmp_path / "heads.json")
    heads.welcomed(head(7))
    heads.note(head(6))  # an answer that was overtaken
    assert caplog.text == ""

    heads.welcomed(head(5))

    assert "was cut" in caplog.text
    assert heads.all() == (head(7),)


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b'{"heads": [1]}', b"\xff", b'{"heads": [{"node": "../a"}]}'])
def test_damaged_heads_are_no_reason_not_to_start(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "heads.json").write_bytes(damage)
    heads = Heads(tmp_path / "heads.json")
    heads.load()

    assert heads.all() == ()


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


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"of": 1}', "\u00ff"])
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
