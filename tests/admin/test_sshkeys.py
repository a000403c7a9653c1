import base64
import subprocess
from pathlib import Path

import pytest

from agentproxy.admin.sshkeys import SshKey, authorized_line
from agentproxy.oracle.config import AttachConfig
from agentproxy.protocol.errors import ConfigError

ATTACH = AttachConfig(Path("/run/blind-oracle/attach.sock"), ("blind-oracle-ssh",))


@pytest.mark.parametrize(("kind", "options"), [("ed25519", ()), ("rsa", ("-b", "2048")), ("ecdsa", ("-b", "384"))])
def test_the_line_is_one_that_ssh_keygen_reads_and_names_the_key(
    kind: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    key, line = tmp_path / "id", tmp_path / "authorized_keys"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, *options, "-N", "", "-C", "me", "-f", key], check=True, timeout=60)
    line.write_text(authorized_line("build-01", SshKey.read(tmp_path / "id.pub"), ATTACH))
    shown = [
        subprocess.run(["ssh-keygen", "-l", "-f", file], check=True, capture_output=True, text=True, timeout=60).stdout
        for file in (tmp_path / "id.pub", line)
    ]
    assert shown[0].split()[:2] == shown[1].split()[:2]
    text = line.read_text()
    assert text.startswith('restrict,command="')
    assert 'attach --runner build-01 --socket /run/blind-oracle/attach.sock"' in text
    assert "me" not in text.split()


def test_a_socket_with_blanks_and_quotes_stays_one_word_of_the_command(tmp_path: Path) -> None:
    attach = AttachConfig(Path('/run/a b"c'), ("o",))
    line = authorized_line("r", SshKey("ssh-ed25519", "AAAA"), attach)
    command = line.removeprefix('restrict,command="').rpartition('" ssh-ed25519')[0]
    # As sshd(8) reads it: only a quote is escaped, by a backslash.
    shell = command.replace('\\"', '"')
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {shell}"], check=True, capture_output=True, text=True, timeout=60
    ).stdout.splitlines()
    assert words[1:] == ["attach", "--runner", "r", "--socket", '/run/a b"c']


ED25519 = base64.b64encode(b"\0\0\0\x0bssh-ed25519" + b"\0\0\0\x20" + bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        f"ssh-rsa {ED25519}",
        f"ssh-dss {ED25519}",
        f"ssh-ed25519 {ED25519}\nssh-ed25519 {ED25519}",
        f'command="id" ssh-ed25519 {ED25519}',
        f"ssh-ed25519 {ED25519[:-1]}",
        "x" * 20_000,
    ],
)
def test_what_is_no_single_public_key_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(text)
    with pytest.raises(ConfigError, match="expected one ssh public key"):
        SshKey.read(file)


def test_a_private_key_is_named_as_such(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "id"], check=True, timeout=60)
    with pytest.raises(ConfigError, match="found a private key") as caught:
        SshKey.read(tmp_path / "id")
    assert "give id.pub" in caught.value.hint


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none: cannot be read"):
        SshKey.read(tmp_path / "none")
