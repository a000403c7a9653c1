import os
from dataclasses import replace
from pathlib import Path

import pytest

from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.peer import Peer
from relay.config import RelayConfig, SocketConfig, load_config
from relay.door import OVERFLOW_ID, open_doors
from tests.relay.conftest import Runner, relay_config

PLACE = Path("/run/relay/S.gpg-agent")


def objection(config: SocketConfig, peer: Peer) -> str:
    (door,) = open_doors(replace(relay_config(Path("/etc")), sockets=(config,)))
    return door.objection(peer)


def peer(uid: int, *groups: int) -> Peer:
    return Peer(42, uid, groups[0] if groups else 1, groups or (1,))


@pytest.mark.parametrize(
    ("config", "allowed", "refused"),
    [
        (SocketConfig(PLACE), [peer(0), peer(1000)], []),
        (SocketConfig(PLACE, users=(1000,)), [peer(1000)], [peer(0), peer(1001, 1000)]),
        (SocketConfig(PLACE, users=("root",)), [peer(0)], [peer(1000, 0)]),
        (SocketConfig(PLACE, groups=(20, 30)), [peer(1000, 30), peer(1000, 5, 20)], [peer(1000, 5), peer(20)]),
        (SocketConfig(PLACE, groups=("root",)), [peer(1000, 0)], [peer(1000)]),
        (SocketConfig(PLACE, users=(1000,), groups=(20,)), [peer(1000), peer(7, 20)], [peer(7)]),
    ],
)
def test_users_and_groups_say_who_may_come_in(config: SocketConfig, allowed: list[Peer], refused: list[Peer]) -> None:
    assert [objection(config, one) for one in allowed] == [""] * len(allowed)
    for one in refused:
        assert f"uid {one.uid} is not among users and groups of the socket gpg" in objection(config, one)


@pytest.mark.parametrize("config", [SocketConfig(PLACE), SocketConfig(PLACE, groups=(20,))])
def test_the_overflow_uid_is_nobody_in_particular_and_the_log_says_what_to_do(config: SocketConfig) -> None:
    words = objection(config, peer(OVERFLOW_ID, 20))
    assert "remove PrivateUsers= from its unit" in words


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (SocketConfig(PLACE, users=("nobody-here",)), r"sockets\[0\]\.users: no 'nobody-here' on this host"),
        (SocketConfig(PLACE, groups=("nobody-here",)), r"sockets\[0\]\.groups: no 'nobody-here' on this host"),
        (SocketConfig(PLACE, users=(OVERFLOW_ID,)), "stands for nobody in particular"),
        (SocketConfig(PLACE, groups=(-1,)), "stands for nobody in particular"),
    ],
)
def test_accounts_that_do_not_exist_are_named_at_the_start(config: SocketConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        objection(config, peer(0))


@pytest.mark.parametrize(
    ("mode", "groups", "is_warned_of"), [("0666", (), True), ("0660", (), False), ("0666", (os.getgid(),), False)]
)
async def test_a_socket_for_everybody_is_warned_of(
    runner: Runner, caplog: pytest.LogCaptureFixture, mode: str, groups: tuple[int, ...], is_warned_of: bool
) -> None:
    runner.config = replace(runner.config, sockets=(replace(runner.config.sockets[0], mode=mode, groups=groups),))
    async with runner.both():
        pass
    assert ("every user of this host may sign" in caplog.text) is is_warned_of


BASE = """\
name: b1
oracles: [{address: "oracle.example.org:7443", server_name: oracle.example.org}]
authority: authority.crt
certificate: client.crt
key: client.key
token: token
state: state
sockets:
"""


def from_yaml(directory: Path, sockets: str) -> RelayConfig:
    (directory / "relay.yaml").write_text(BASE + sockets)
    return load_config(directory / "relay.yaml")


@pytest.mark.parametrize("level", ["trace", "", "20"])
def test_a_log_level_that_does_not_exist_is_named_when_relay_yaml_is_read(tmp_path: Path, level: str) -> None:
    with pytest.raises(ConfigError, match=r"relay\.yaml: log_level: expected debug, info, warning, error or critical"):
        from_yaml(tmp_path, f'  - path: a\nlog_level: "{level}"\n')
    assert from_yaml(tmp_path, "  - path: a\nlog_level: WARNING\n").log_level == "WARNING"


def test_several_sockets_are_read_from_relay_yaml_and_from_its_cache(tmp_path: Path) -> None:
    sockets = """\
  - path: run/S.gpg-agent
    users: [builder, 1000]
  - {path: run/S.el10, name: el10, groups: ["10"], keys: [modern], distribution: el10-x86_64, mode: "0666"}
"""
    config = from_yaml(tmp_path, sockets)
    assert config.sockets == (
        SocketConfig(tmp_path / "run/S.gpg-agent", users=("builder", 1000)),
        SocketConfig(tmp_path / "run/S.el10", "el10", "0666", (), ("10",), ("modern",), "el10-x86_64"),
    )
    assert (tmp_path / ".relay.yaml.parsed").exists()
    assert load_config(tmp_path / "relay.yaml") == config


@pytest.mark.parametrize(
    ("sockets", "words"),
    [
        ("  []", "sockets: expected at least one"),
        ("  - path: a\n  - path: b", "two of them have the name gpg"),
        ("  - path: a\n  - {path: a, name: b}", "two of them have the path"),
        ("  - {path: a, name: control}", "control is the relay's own socket"),
        ("  - {path: a, name: 'a b'}", "name: expected 1 to 64 letters"),
        ("  - {path: a, keys: ['*']}", "keys: expected 1 to 64 letters"),
        ("  - {path: a, distribution: 'el 10'}", "distribution: expected 1 to 64 letters"),
        ("  - {path: a, users: [true]}", r"sockets\[0\].users\[0\]: expected a name or a number, got bool"),
        ("  - {path: a, mode: 0660}", "0660"),
    ],
)
def test_what_is_wrong_with_a_socket_is_named(tmp_path: Path, sockets: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        from_yaml(tmp_path, sockets)


async def test_a_user_who_may_not_use_the_socket_hears_forbidden_and_the_log_says_why(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    runner.config = replace(runner.config, sockets=(replace(runner.config.sockets[0], users=(os.getuid() + 1,)),))
    async with runner.both():
        done = await runner.sign()
    assert done.returncode == 2
    assert b"signing failed: Forbidden" in done.stderr
    assert runner.oracle.requests == []
    assert f"uid {os.getuid()} is not among users and groups" in caplog.text


async def test_each_socket_has_its_keys_its_distribution_and_its_name(runner: Runner) -> None:
    everyone = replace(runner.config.sockets[0], name="everyone")
    second = SocketConfig(everyone.path.with_name("S.second"), "ssh", keys=("ed",), distribution="el10-x86_64")
    runner.config = replace(runner.config, sockets=(everyone, second), distribution="el9-x86_64")
    async with runner.both():
        assert (await runner.sign("rsa")).returncode == 0
        runner.redirect.write_text(f"%Assuan%\nsocket={second.path}\n")
        assert (await runner.sign("ed")).returncode == 0
        hidden = await runner.sign("rsa")
        listed = (await runner.gpg("--with-colons", "--list-secret-keys")).stdout.decode()
    assert b"No secret key" in hidden.stderr
    assert [(one.socket, one.distribution) for one in runner.oracle.requests] == [
        ("everyone", "el9-x86_64"),
        ("ssh", "el10-x86_64"),
    ]
    assert [line.split(":")[9] for line in listed.splitlines() if line.startswith("uid:")] == ["ed <ed@example.org>"]
