"""RPMs and the signatures that are put into them, as rpm itself sees both."""

import functools
import hashlib
import io
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import rpm_rs
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.keys import Fingerprint
from agentproxy.protocol.openpgp import DocumentSignature, trailer
from agentproxy.protocol.rpmfile import Entry, Header, RpmFront, read_front
from agentproxy.protocol.signatures import EddsaSignature, RsaSignature
from relay.sealed import rpms, signatureheader
from relay.sealed.errors import UnfitError
from relay.sealed.states import state_of
from tests.signer.conftest import new_home

SPEC = """\
Name: hello
Version: 1.0
Release: 1
Summary: A package to sign
License: Apache-2.0
BuildArch: noarch
%description
A package to sign.
%install
mkdir -p %{buildroot}/usr/share
echo hello > %{buildroot}/usr/share/hello
%files
/usr/share/hello
"""
KEY = rsa.generate_private_key(65537, 2048)
ISSUER = Fingerprint(bytes(range(20)))


def made(directory: Path) -> Path:
    (directory / "hello.spec").write_text(SPEC)
    command = ["rpmbuild", "--quiet", "--define", f"_topdir {directory}/build", "-bb", str(directory / "hello.spec")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    (found,) = (directory / "build").rglob("*.rpm")
    return found


@pytest.fixture(name="package", scope="module")
def built_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("rpm"))


def signature_of(header: bytes) -> DocumentSignature:
    created = datetime(2026, 11, 22, tzinfo=UTC)
    digest = state_of(header, HashAlgorithm.SHA256).finished(trailer(1, HashAlgorithm.SHA256, ISSUER, created))
    message = header + trailer(1, HashAlgorithm.SHA256, ISSUER, created)
    number = KEY.sign(message, padding.PKCS1v15(), hashes.SHA256()).lstrip(b"\0")
    return DocumentSignature(ISSUER, created, digest, RsaSignature(number))


def signed(content: bytes, signature: DocumentSignature | None = None) -> bytes:
    original = io.BytesIO(content)
    rpm = rpms.read(original)
    out = io.BytesIO()
    rpms.write_signed(rpm, signature or signature_of(rpm.header), original, len(content), out)
    return out.getvalue()


def tags(content: bytes) -> dict[int, Entry]:
    return {entry.tag: entry for entry in read_front(io.BytesIO(content)).signatures.entries}


@pytest.fixture(name="home", scope="module")
def gnupg_home() -> Iterator[Path]:
    home = new_home()
    try:
        home.make("packager", "rsa2048")
        yield home.path
    finally:
        home.remove()


def test_a_signed_package_is_byte_for_byte_what_rpmsign_makes_with_the_same_signature(
    package: Path, home: Path, tmp_path: Path
) -> None:
    theirs = shutil.copy(package, tmp_path / "theirs.rpm")
    macros = ("--define", "_gpg_name packager", "--define", f"_gpg_path {home}", "--define", "__gpg /usr/bin/gpg")
    environment = {"PATH": "/usr/bin:/bin", "GNUPGHOME": str(home), "HOME": str(tmp_path)}
    command = ["rpmsign", *macros, "--addsign", str(theirs)]
    subprocess.run(command, check=True, capture_output=True, timeout=60, env=environment)
    expected = Path(theirs).read_bytes()
    packet = tags(expected)[268].value
    content = package.read_bytes()
    front = read_front(io.BytesIO(content))
    ours = signatureheader.with_signature(front, packet, 1) + content[front.header_start :]
    assert ours == expected


def test_everything_else_stays_as_it_was_and_the_size_too(package: Path) -> None:
    before, after = package.read_bytes(), signed(package.read_bytes())
    assert len(after) == len(before)
    old, new = tags(before), tags(after)
    assert {tag for tag in new if tag not in old} == {268}
    assert all(new[tag].value == old[tag].value for tag in old if tag not in {62, 1008})
    assert new[1004].value  # the MD5 sum over header and payload, by which Koji and EL7 go
    assert rpms.read(io.BytesIO(after)).is_signed


class CountedBytes(io.BytesIO):
    """Knows how often it was read at its end."""

    reads_at_the_end = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.reads_at_the_end += size != 0 and not content
        return content


def test_nothing_is_asked_for_behind_a_packages_end(package: Path) -> None:
    content = package.read_bytes()
    original = CountedBytes(content)
    rpm = rpms.read(original)
    rpms.write_signed(rpm, signature_of(rpm.header), original, len(content), out := io.BytesIO())
    assert out.getvalue() == signed(content)
    assert original.reads_at_the_end == 0


@pytest.mark.parametrize("fails_at_the_front", [True, False])
def test_a_full_disk_is_told_as_that_of_the_new_package(package: Path, *, fails_at_the_front: bool) -> None:
    """The kernel's word alone would be of the package that is there, and can be read."""
    content = package.read_bytes()
    original = io.BytesIO(content)
    rpm = rpms.read(original)
    with Path("/dev/full").open("wb", buffering=0) as full:
        signed = io.BufferedWriter(full, 1 if fails_at_the_front else len(content) - 1)
        with pytest.raises(OSError, match="what replaces it cannot be written: No space left on device"):
            rpms.write_signed(rpm, signature_of(rpm.header), original, len(content), signed)


def test_another_signature_takes_the_place_of_the_first(package: Path) -> None:
    first = signed(package.read_bytes())
    header = rpms.read(io.BytesIO(first)).header
    made_by_rsa = signature_of(header)
    by_ed25519 = DocumentSignature(
        ISSUER, made_by_rsa.created, made_by_rsa.digest, EddsaSignature(bytes(32), bytes(32))
    )
    second = signed(first, by_ed25519)
    assert {267, 268} & tags(second).keys() == {267}
    assert tags(second)[267].value == by_ed25519.packet
    assert signed(second) == first


def test_a_signature_header_without_room_grows(package: Path) -> None:
    content = package.read_bytes()
    front = read_front(io.BytesIO(content))
    without = [entry for entry in front.signatures.entries if entry.tag not in {62, 1008}]
    header = signatureheader.assembled(without)
    small = front.lead + header + bytes(-len(header) % 8) + content[front.header_start :]
    grown = signed(small)
    assert len(grown) > len(small)
    assert tags(grown)[268].value == signature_of(front.header).packet
    assert 1008 not in tags(grown)


def test_reserved_space_that_is_no_bytes_takes_no_memory(package: Path) -> None:
    content = package.read_bytes()
    front = read_front(io.BytesIO(content))
    kept = [entry for entry in front.signatures.entries if entry.tag not in {62, 1008}]
    header = signatureheader.assembled([*kept, Entry(1008, 0, 0xFFFF_FFFF, b"")])
    hostile = front.lead + header + bytes(-len(header) % 8) + content[front.header_start :]
    assert len(signatureheader.with_signature(read_front(io.BytesIO(hostile)), b"packet", 1)) < 2 * len(header)


def of_version_6() -> bytes:
    builder = rpm_rs.PackageBuilder("six", "1.0", "Apache-2.0", "noarch")
    config = rpm_rs.BuildConfig(format=rpm_rs.RpmFormat.V6)
    builder.using_config(config)
    return bytes(builder.build().to_bytes())


def test_a_package_of_version_6_keeps_its_size_as_long_as_it_has_room() -> None:
    content = of_version_6()
    once = signed(content)
    assert len(once) == len(content)
    assert signed(once) == once  # what the first signature took is given back


def test_a_package_of_version_6_gets_its_signature_where_rpm_6_looks() -> None:
    content = of_version_6()
    after = signed(content)
    assert 268 not in tags(after)
    (packet,) = rpm_rs.PackageMetadata.from_bytes(after).raw_signatures()
    assert bytes(packet) == signature_of(read_front(io.BytesIO(content)).header).packet


def without_payload_digest(content: bytes) -> bytes:
    """The package with tag 5092 renamed to one that nobody knows, and digests that fit."""
    front = read_front(io.BytesIO(content))
    header = front.header.replace((5092).to_bytes(4, "big"), (9992).to_bytes(4, "big"), 1)
    return _with_header(content, front, header)


def _with_header(content: bytes, front: RpmFront, header: bytes) -> bytes:
    kept = [entry for entry in front.signatures.entries if entry.tag not in {62, 269, 273, 1004}]
    kept += [
        Entry(269, 6, 1, hashlib.sha1(header).hexdigest().encode() + b"\0"),  # noqa: S324  rpm's own
        Entry(273, 6, 1, hashlib.sha256(header).hexdigest().encode() + b"\0"),
    ]
    signature = signatureheader.assembled(kept)
    return front.lead + signature + bytes(-len(signature) % 8) + header + content[front.header_end :]


def test_a_package_without_a_digest_of_its_payload_is_refused(package: Path) -> None:
    content = package.read_bytes()
    front = read_front(io.BytesIO(content))
    assert rpms.read(io.BytesIO(_with_header(content, front, front.header))).nevra == "hello-0:1.0-1.noarch"
    with pytest.raises(UnfitError, match="no digest of its payload"):
        rpms.read(io.BytesIO(without_payload_digest(content)))


def test_a_payload_that_is_not_the_headers_is_refused(package: Path) -> None:
    content = package.read_bytes()
    end = read_front(io.BytesIO(content)).header_end
    for broken in (content[:-1], content + b"\0", content[:end] + b"x" + content[end + 1 :]):
        with pytest.raises(UnfitError, match="payload"):
            signed(broken)


@pytest.mark.parametrize("content", [b"", b"\xed\xab\xee\xdb", b"not an RPM at all" * 100, b"<repomd/>"])
def test_what_is_no_rpm_is_refused(content: bytes) -> None:
    with pytest.raises(UnfitError):
        rpms.read(io.BytesIO(content))


@functools.cache
def content_of_a_package() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        return made(Path(directory)).read_bytes()


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_package_is_refused_or_signed_as_what_it_is(data: st.DataObject) -> None:
    content = content_of_a_package()
    end = read_front(io.BytesIO(content)).header_end
    at = data.draw(st.integers(0, end - 1))
    size = data.draw(st.integers(0, 8))
    broken = content[:at] + data.draw(st.binary(max_size=8)) + content[at + size :]
    try:
        after = signed(broken)
    except UnfitError:
        return
    assert read_front(io.BytesIO(after)).header == read_front(io.BytesIO(broken)).header


def test_an_offset_far_behind_the_header_s_end_is_damage_and_no_crash() -> None:
    content = content_of_a_package()
    front = read_front(io.BytesIO(content))
    # The main header's index: 16 bytes an entry, of which the third four are the offset of its value.
    index = content.index(b"\x8e\xad\xe8\x01", len(front.lead) + 16) + 16
    number = int.from_bytes(content[index - 8 : index - 4], "big")
    for entry in range(number):
        at = index + 16 * entry + 8
        broken = content[:at] + (23_452).to_bytes(4, "big") + content[at + 4 :]
        with pytest.raises(UnfitError):
            signed(broken)


@pytest.mark.parametrize("kind", [2, 3, 4, 5, 7, 8, 9])
def test_an_entry_of_more_values_than_there_is_room_for_is_refused(kind: int) -> None:
    content = content_of_a_package()
    front = read_front(io.BytesIO(content))
    last = front.header_start + 16 * front.header_entries  # the last entry of the main header's index
    for offset, count in ((0, 0xFFFF_FFFF), (len(front.header) - 1, 2), (0xFFFF_FFFF, 1)):
        entry = content[last : last + 4] + struct.pack(">III", kind, offset, count)
        header = front.header[: last - front.header_start] + entry + front.header[last + 16 - front.header_start :]
        with pytest.raises(UnfitError, match="lies outside its header"):
            rpms.read(io.BytesIO(content[: front.header_start] + header))


def test_a_signature_header_that_would_keep_us_busy_for_long_is_refused() -> None:
    zeros = bytes(1 << 20)
    for tag in (1000, 1001):
        many = struct.pack(">IIII", tag, 8, 0, 1 << 20)  # texts, each of which is nothing
        with pytest.raises(RemoteProtocolError, match="more than 65535 texts"):
            Header.parse(many, zeros)
    shared = b"".join(struct.pack(">IIII", tag, 7, 0, len(zeros)) for tag in range(1000, 1030))
    with pytest.raises(RemoteProtocolError, match="overlap"):
        Header.parse(shared, zeros)


def test_what_a_damaged_package_says_of_itself_writes_no_line_and_no_colour_on_a_terminal(package: Path) -> None:
    content = package.read_bytes()
    told = b"\n4 signed\x1b[2K\x9b1A"
    sha1 = tags(content)[269].value
    with pytest.raises(UnfitError, match="it is damaged") as refused:
        rpms.read(io.BytesIO(content.replace(sha1[:20], told.ljust(20, b"x"), 1)))
    assert "4 signed" in str(refused.value)
    assert str(refused.value).isprintable()
