import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentproxy.protocol.errors import RemoteProtocolError
from relay.rpmheader import Package, read_package
from tests.end_to_end.place import SECONDS

SPEC = """\
Name: hello-world
{epoch}
Version: 1.2~rc1
Release: 4%{{?dist}}
Summary: A package to read
License: Apache-2.0
{arch}
%description
A package to read.
%files
"""


@pytest.fixture(name="built", scope="module")
def built_packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A binary and a source package with everything, and a plain one."""
    directory = tmp_path_factory.mktemp("built")
    (directory / "full.spec").write_text(SPEC.format(epoch="Epoch: 3", arch=""))
    (directory / "plain.spec").write_text(SPEC.format(epoch="", arch="BuildArch: noarch"))
    common = ["rpmbuild", "--quiet", "--define", f"_topdir {directory}/build"]
    full = [*common, "--define", "disttag .el10_1", "--define", "dist .el10", "-ba", "full.spec"]
    for command in (full, [*common, "-bb", "plain.spec"]):
        subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=SECONDS)
    found = sorted((directory / "build").rglob("*.rpm"))
    assert len(found) == 3
    return found


def read(path: Path) -> Package:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return read_package(descriptor)
    finally:
        os.close(descriptor)


def test_it_says_what_rpm_says(built: list[Path]) -> None:
    for path in built:
        asked = "%{NAME}-%{EPOCHNUM}:%{VERSION}-%{RELEASE}.%|SOURCERPM?{%{ARCH}}:{src}| %{DISTTAG}"
        command = ["rpm", "-qp", "--nosignature", "--qf", asked, str(path)]
        said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS).stdout
        nevra, disttag = said.split(" ")
        assert read(path) == Package(nevra, None if disttag == "(none)" else disttag)


@pytest.fixture(name="small", scope="module")
def beginning_of_a_package(built: list[Path]) -> bytes:
    return built[0].read_bytes()[:32_768]


def read_bytes(data: bytes) -> Package:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return read_package(file.fileno())


def test_a_header_far_behind_a_large_signature_is_found(small: bytes) -> None:
    # As with signatures of each file: the signature header's data is made a megabyte longer.
    size = int.from_bytes(small[108:112], "big")
    entries = int.from_bytes(small[104:108], "big")
    end = 96 + (16 + 16 * entries + size + 7) // 8 * 8
    longer = small[:108] + (size + 2**20).to_bytes(4, "big") + small[112:end] + bytes(2**20) + small[end:]
    assert read_bytes(longer) == read_bytes(small)


@pytest.mark.parametrize("length", [0, 1, 95, 96, 100, 112, 500, 3000])
def test_a_file_that_ends_early_is_no_package(small: bytes, length: int) -> None:
    with pytest.raises(RemoteProtocolError, match="not an RPM"):
        read_bytes(small[:length])


@given(st.lists(st.tuples(st.integers(0, 16_000), st.integers(0, 255)), min_size=1, max_size=20))
def test_a_damaged_one_is_read_or_refused_and_nothing_else(small: bytes, changes: list[tuple[int, int]]) -> None:
    data = bytearray(small)
    for place, value in changes:
        data[place % len(data)] = value
    try:
        package = read_bytes(bytes(data))
    except RemoteProtocolError:
        return
    assert len(package.nevra) < 2000


@given(st.binary(max_size=4000))
def test_whatever_follows_a_lead_is_read_or_refused(data: bytes) -> None:
    for start in (
        b"",
        b"\xed\xab\xee\xdb" + bytes(92),
        b"\xed\xab\xee\xdb" + bytes(92) + b"\x8e\xad\xe8\x01" + bytes(4),
    ):
        with pytest.raises(RemoteProtocolError):
            read_bytes(start + data)
