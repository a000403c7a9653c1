from pathlib import Path

import pytest

from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.secretfiles import read_secret, secret_path


@pytest.fixture(name="credentials")
def credentials_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "credentials"
    directory.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    return directory


def _file(path: Path, text: str, mode: int) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_credential_goes_before_the_file_of_its_name(credentials: Path, tmp_path: Path) -> None:
    file = _file(tmp_path / "server.key", "file", 0o600)
    passed = _file(credentials / "server.key", "credential", 0o440)  # the mask of systemd's access control list
    assert read_secret(file) == b"credential"
    assert secret_path(file) == passed


def test_a_credential_needs_no_file(credentials: Path, tmp_path: Path) -> None:
    _file(credentials / "server.key", "credential", 0o400)
    assert read_secret(tmp_path / "server.key") == b"credential"


def test_without_a_credential_it_is_the_file(credentials: Path, tmp_path: Path) -> None:
    file = _file(tmp_path / "server.key", "file", 0o600)
    _file(credentials / "other.key", "credential", 0o400)
    assert read_secret(file) == b"file"
    assert secret_path(file) == file


def test_a_credential_that_others_may_read_is_refused(credentials: Path, tmp_path: Path) -> None:
    _file(credentials / "server.key", "credential", 0o444)
    with pytest.raises(ConfigError, match=r"server.key: others may read it \(mode 0444\)"):
        read_secret(tmp_path / "server.key")


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="others may read it"):
        read_secret(_file(tmp_path / "server.key", "file", 0o640))
