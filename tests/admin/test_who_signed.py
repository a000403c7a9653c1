"""Signatures that real gpg and rpmsign made are found in a log that says what they signed."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from hypothesis import given
from hypothesis import strategies as st

from agentproxy.admin.signaturepackets import MAX_SIGNATURES, read_signatures
from agentproxy.admin.signedfiles import signatures_of
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Asserted
from agentproxy.protocol.openpgp import DocumentSignature
from agentproxy.protocol.rpmfile import read_rpm
from agentproxy.protocol.signatures import RsaSignature
from agentproxy.protocol.signer_requests import Outcome
from agentproxy.signer.log import AuditLog
from agentproxy.signer.record import Entry
from tests.admin.shell import Result, blind_oracle
from tests.protocol.test_fieldtexts import SEALS
from tests.signer.conftest import GnupgHome, new_home

SPEC = """\
Name: hello
Version: 1
Release: 1
Summary: A small package to sign
License: Apache-2.0
BuildArch: noarch
%description
A small package to sign.
%files
"""
ALGORITHMS = {"rsa2048": "rsa2048", "ed25519": "ed25519", "p256": "nistp256", "dsa2048": "dsa2048"}


@pytest.fixture(scope="module", name="gnupg")
def made_home() -> Iterator[GnupgHome]:
    home = new_home()
    try:
        for name, algorithm in ALGORITHMS.items():
            home.make(name, algorithm)
        yield home
    finally:
        home.remove()


@pytest.fixture(scope="module", name="built")
def built_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("build")
    (top / "hello.spec").write_text(SPEC)
    command = ["rpmbuild", "--quiet", "--define", f"_topdir {top}", "-bb", str(top / "hello.spec")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    (package,) = top.rglob("*.rpm")
    return package


def sign_rpm(package: Path, target: Path, gnupg: GnupgHome, key: str, *options: str) -> Path:
    shutil.copy(package, target)
    command = ["rpmsign", "--define", f"_gpg_name {gnupg.fingerprints[key]}", "--define", f"_gpg_path {gnupg.path}"]
    command += ["--define", "__gpg /usr/bin/gpg", *options, "--addsign", str(target)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return target


def sign_file(file: Path, gnupg: GnupgHome, key: str, suffix: str, *options: str) -> Path:
    signature = file.with_name(file.name + suffix)
    gnupg.gpg("-u", gnupg.fingerprints[key], *options, "--output", str(signature), "--detach-sign", str(file))
    return signature


def log_of(directory: Path, *files: Path, request: str | None = None) -> Path:
    """A log of an oracle that made all signatures in these files."""
    directory.mkdir()
    with AuditLog.open(directory, "n1") as log:
        log.append([Entry("signer_started", Outcome.DONE)])
        for found in [found for file in files for found in signatures_of(file)]:
            made = {"request": request, "digest": found.digest, "signature_sha256": found.signature_sha256}
            log.append([Entry("sign", Outcome.SIGNED, Asserted(runner="b1"), key="modern", **made)])  # type: ignore[arg-type]
    return directory


def who_signed(log: Path, *files: Path | str) -> Result:
    return blind_oracle("audit", "who-signed", "--log", log, "--cache", log.parent / "cache", *files)


@pytest.mark.parametrize("key", ALGORITHMS)
@pytest.mark.parametrize(("suffix", "armor"), [(".asc", ("--armor",)), (".sig", ())])
def test_what_gpg_signed_is_hashed_as_gpg_did(
    tmp_path: Path, gnupg: GnupgHome, key: str, suffix: str, armor: tuple[str, ...]
) -> None:
    document = tmp_path / "repomd.xml"
    document.write_bytes(b"<repomd/>\n" * 1000)
    signature = sign_file(document, gnupg, key, suffix, *armor)
    (found,) = signatures_of(signature)
    assert found.intact
    assert signatures_of(document) == [found]
    document.write_bytes(b"other")
    (other,) = signatures_of(signature)
    assert other.digest != found.digest


# By gpg 2.4.7, of `hello`: other releases make no such signatures.
ED448_POINT = bytes.fromhex(
    "37343431ffcc00bcac5e81a7a49f9a49c8f7e1af79812019555a10d7dc892d37e3b024aeb271292fcd6f672a87e9e8a5f29ea654d921359780"
)
VERSION_5 = bytes.fromhex(
    "88a90500160a00292221054f7ee7249dfd31cb941fe22861f87898eec6bd3c40865b02f3dca2d1bb75e11805026b07e4fb00009de601c62de356"
    "0d3ef622904eaaf4ce640e663926ea3e2ed9a0370dbb79c476da3b3a0282cdf5983d9650cb80cfa6146a2a84bc350247ad5bb7730c8001c62024"
    "416dfdac24d9c16eec66f8a9aedc2388a6783f3e2356965566212727f81256f3251a07dfcab28311c3efe960072dccf21b42ca44591a00"
)


def test_what_gpg_2_4_signed_with_ed448_is_hashed_as_gpg_did(tmp_path: Path) -> None:
    (tmp_path / "document").write_bytes(b"hello")
    (tmp_path / "document.sig").write_bytes(VERSION_5)
    (found,) = signatures_of(tmp_path / "document")
    assert found.intact
    (packet,) = read_signatures(VERSION_5)
    Ed448PublicKey.from_public_bytes(ED448_POINT).verify(packet.numbers, found.digest.value)


@given(SEALS)
def test_what_the_signer_writes_whole_is_read_as_it_was_written(seal: DocumentSignature) -> None:
    (found,) = read_signatures(seal.packet)
    assert (found.kind, found.hash_algorithm, found.trailer) == (0, seal.digest.algorithm, seal.trailer)
    assert found.left16 == seal.digest.value[:2]
    made = seal.signature
    assert found.numbers == (made.s if isinstance(made, RsaSignature) else made.r + made.s)


@pytest.mark.parametrize("key", ["rsa2048", "ed25519"])
def test_what_rpmsign_signed_is_hashed_as_gpg_did(tmp_path: Path, gnupg: GnupgHome, built: Path, key: str) -> None:
    signed = sign_rpm(built, tmp_path / "a.rpm", gnupg, key)
    assert [(found.what, found.intact) for found in signatures_of(signed)] == [("header", True)]
    legacy = sign_rpm(built, tmp_path / "b.rpm", gnupg, key, "--rpmv3")
    assert [(found.what, found.intact) for found in signatures_of(legacy)] == [
        ("header", True),
        ("header and payload", True),
    ]
    assert signatures_of(built) == []


def test_the_record_is_named(tmp_path: Path, gnupg: GnupgHome, built: Path) -> None:
    package = sign_rpm(built, tmp_path / "a.rpm", gnupg, "rsa2048")
    document = tmp_path / "repomd.xml"
    document.write_bytes(b"<repomd/>")
    signature = sign_file(document, gnupg, "rsa2048", ".asc", "--armor")
    log = log_of(tmp_path / "audit", package, signature)
    result = who_signed(log, package, signature)
    assert result.status == 0, result.errors
    first, second = result.output.splitlines()
    assert first.startswith(f"{package}: header: this oracle made it, record 2 at ")
    assert second.startswith(f"{signature}: repomd.xml: this oracle made it, record 3 at ")
    assert second.endswith("with key modern, for b1")


def test_a_file_that_cannot_be_read_keeps_no_other_from_being_told(tmp_path: Path, gnupg: GnupgHome) -> None:
    document = tmp_path / "repomd.xml"
    document.write_bytes(b"<repomd/>")
    signature = sign_file(document, gnupg, "rsa2048", ".asc", "--armor")
    log = log_of(tmp_path / "audit", signature)
    result = who_signed(log, tmp_path / "none.rpm", signature)
    assert (result.status, result.output.count("this oracle made it")) == (1, 1)
    assert result.errors == f"blind-oracle: error: {tmp_path / 'none.rpm'}: cannot be read: No such file or directory\n"
    result = who_signed(log, tmp_path / "none.rpm", signature, "--json")
    first, second = map(json.loads, result.output.splitlines())
    assert (result.status, first["file"], "cannot be read" in first["error"]) == (1, str(tmp_path / "none.rpm"), True)
    assert second["signatures"][0]["verdict"] == "made"


def test_a_signature_of_somebody_else_is_called_so(tmp_path: Path, gnupg: GnupgHome, built: Path) -> None:
    package = sign_rpm(built, tmp_path / "a.rpm", gnupg, "rsa2048")
    log = log_of(tmp_path / "audit")
    result = who_signed(log, package)
    assert result.status == 1
    assert result.output == f"{package}: header: this oracle never made it\n"
    result = who_signed(log, built)
    assert (result.status, result.output) == (1, f"{built}: not signed\n")


def test_a_file_that_was_changed_after_it_was_signed_is_called_so(tmp_path: Path, gnupg: GnupgHome) -> None:
    document = tmp_path / "repomd.xml"
    document.write_bytes(b"<repomd/>")
    signature = sign_file(document, gnupg, "ed25519", ".asc", "--armor")
    log = log_of(tmp_path / "audit", signature)
    document.write_bytes(b"<repomd evil='yes'/>")
    result = who_signed(log, signature, "--json")
    assert result.status == 1
    (shown,) = json.loads(result.output)["signatures"]
    assert (shown["verdict"], shown["record"]["sequence"]) == ("changed", 2)


def test_another_signature_of_the_same_is_not_called_this_oracles(tmp_path: Path, gnupg: GnupgHome) -> None:
    document = tmp_path / "repomd.xml"
    document.write_bytes(b"<repomd/>")
    signature = sign_file(document, gnupg, "p256", ".sig")
    log = log_of(tmp_path / "audit", signature)
    content = signature.read_bytes()
    signature.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # gpg makes the same numbers each time
    result = who_signed(log, document)
    assert result.status == 1
    assert "signed the same, but did not make this signature, record 2" in result.output


def test_an_id_that_a_runner_uses_again_hides_no_signature(tmp_path: Path, gnupg: GnupgHome) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name, content in (("evil", b"evil"), ("evil-too", b"evil"), ("good", b"good")):
        (tree / name).write_bytes(content)
    evil, good = (sign_file(tree / name, gnupg, "p256", ".sig") for name in ("evil", "good"))
    content = evil.read_bytes()
    also = tree / "evil-too.sig"
    also.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # as ECDSA with other random numbers
    files = [evil, also, good]
    log = log_of(tmp_path / "audit", *files, request="1" * 32)
    result = who_signed(log, *files)
    assert (result.status, result.output.count("this oracle made it, record ")) == (0, 3), result.output
    evil.unlink()
    result = blind_oracle("audit", "reconcile", tree, "--log", log, "--cache", tmp_path / "cache")
    assert (result.status, result.output.splitlines()[0].partition(":")[0]) == (1, "record 2")


@pytest.mark.parametrize("name", ["plain.txt", "plain.asc", "gone.rpm"])
def test_what_is_no_signature_is_refused_by_name(tmp_path: Path, name: str) -> None:
    if name != "gone.rpm":
        (tmp_path / name).write_bytes(b"no signature\n")
    result = who_signed(log_of(tmp_path / "audit"), tmp_path / name)
    assert result.status == 1
    assert str(tmp_path / name) in result.errors


def test_every_cut_of_an_rpm_is_refused_or_read(tmp_path: Path, gnupg: GnupgHome, built: Path) -> None:
    content = sign_rpm(built, tmp_path / "a.rpm", gnupg, "ed25519").read_bytes()
    whole = read_rpm(io.BytesIO(content))
    for size in range(0, whole.header_end, 7):
        try:
            assert read_rpm(io.BytesIO(content[:size])) == whole
        except RemoteProtocolError:
            continue


def test_every_changed_byte_of_a_signature_is_refused_or_read(tmp_path: Path, gnupg: GnupgHome) -> None:
    document = tmp_path / "d"
    document.write_bytes(b"x")
    content = sign_file(document, gnupg, "rsa2048", ".sig").read_bytes()
    for at in range(len(content)):
        for value in (0, 0x7F, 0x80, 0xFF, content[at] ^ 1):
            try:
                read_signatures(content[:at] + bytes([value]) + content[at + 1 :])
            except RemoteProtocolError:
                continue


@given(st.binary(max_size=300), st.sampled_from([b"", b"\x88", b"\xc2", b"-----BEGIN PGP SIGNATURE-----\n\n"]))
def test_any_bytes_are_signatures_or_refused(data: bytes, start: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        assert read_signatures(start + data)


FRONT = b"\xed\xab\xee\xdb\x03" + bytes(73) + b"\x00\x05" + bytes(16)
HEADER = b"\x8e\xad\xe8\x01\x00\x00\x00\x00"


@given(st.binary(max_size=100), st.integers(0, 3), st.binary(max_size=64), st.sampled_from([267, 268, 1002, 1005, 5]))
def test_any_bytes_are_an_rpm_or_refused(data: bytes, entries: int, index: bytes, tag: int) -> None:
    body = entries.to_bytes(4, "big") + len(data).to_bytes(4, "big") + tag.to_bytes(4, "big") + index + data
    for content in (data, FRONT + data, FRONT + HEADER + body, FRONT + HEADER + body + HEADER + body):
        try:
            read_rpm(io.BytesIO(content))
        except RemoteProtocolError:
            continue


def test_signatures_without_end_are_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="at most"):
        read_signatures(bytes(MAX_SIGNATURES + 1))


def test_a_tree_is_compared_with_the_log_in_both_directions(tmp_path: Path, gnupg: GnupgHome, built: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "repodata").mkdir(parents=True)
    package = sign_rpm(built, tree / "a.rpm", gnupg, "rsa2048")
    (tree / "repodata" / "repomd.xml").write_bytes(b"<repomd/>")
    metadata = sign_file(tree / "repodata" / "repomd.xml", gnupg, "rsa2048", ".asc", "--armor")
    unpublished = sign_rpm(built, tmp_path / "b.rpm", gnupg, "ed25519")
    log = log_of(tmp_path / "audit", package, metadata)
    words = ("audit", "reconcile", tree, "--log", log, "--cache", tmp_path / "cache")
    result = blind_oracle(*words)
    assert result.status == 0, result.output
    assert result.output.startswith("2 files, 2 signatures of this oracle, 0 that are not")

    with AuditLog.open(log, "n1") as pen:
        (other,) = signatures_of(unpublished)
        entry = Entry("sign", Outcome.SIGNED, Asserted(runner="b1"), key="modern", digest=other.digest)
        pen.append([replace(entry, signature_sha256=other.signature_sha256)])
    foreign = sign_rpm(built, tree / "c.rpm", gnupg, "dsa2048")
    shutil.copy(built, tree / "d.rpm")
    (tree / "e.rpm").write_bytes(b"\xed\xab\xee\xdb, and nothing that belongs there")
    result = blind_oracle(*words)
    assert result.status == 1
    assert result.output.splitlines()[:-1] == [
        f"{foreign}: header: this oracle never made it",
        f"{tree / 'd.rpm'}: not signed",
        f"{tree / 'e.rpm'}: the RPM is cut off",
        "record 4: signed with key modern for b1: no file has it",
    ]
    assert "note" not in blind_oracle(*words, "--key", "modern").errors
    result = blind_oracle(*words, "--json", "--key", "legacy")
    assert result.errors == "blind-oracle: note: no record of this log is of a key 'legacy'\n"
    plain = json.loads(result.output)
    assert (plain["fits"], plain["made"], len(plain["foreign"]), plain["missing"]) == (False, 2, 1, [])


def test_what_has_no_end_in_a_tree_stops_no_check(tmp_path: Path, gnupg: GnupgHome) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "repomd.xml").write_bytes(b"<repomd/>")
    good = sign_file(tree / "repomd.xml", gnupg, "rsa2048", ".asc", "--armor")
    shutil.copy(good, tree / "endless.asc")
    (tree / "endless").symlink_to("/dev/zero")
    os.mkfifo(tree / "fifo.rpm")
    os.mkfifo(tree / "fifo.sig")
    (tree / "zero.rpm").symlink_to("/dev/zero")
    words = ["audit", "reconcile", tree, "--log", log_of(tmp_path / "audit", good), "--cache", tmp_path / "cache"]
    odd = ["endless.asc", "fifo.rpm", "fifo.sig", "zero.rpm"]
    wrong = [f"{tree / name}: expected a regular file as {name.removesuffix('.asc')}" for name in odd]
    # In another process: a failure would wait for ever.
    command = [sys.executable, "-m", "agentproxy.admin", *words]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout.splitlines()[:-1]) == (1, wrong), result.stderr
    command = [*command[:4], "who-signed", *(tree / name for name in odd), good, *words[3:]]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.stderr.splitlines() == [f"blind-oracle: error: {line}" for line in wrong]
    assert (result.returncode, result.stdout.count("this oracle made it")) == (1, 1)


def test_a_files_name_forges_no_line_and_steers_no_terminal(tmp_path: Path, gnupg: GnupgHome) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    name = "a\x1b[2J\u202e\nevil.rpm: header: this oracle made it\udcff"
    (tree / f"{name}.rpm").write_bytes(b"no RPM")
    (tree / name).write_bytes(b"evil")
    foreign = sign_file(tree / name, gnupg, "p256", ".sig")
    shown = r"a\x1b[2J\u202e\nevil.rpm: header: this oracle made it\udcff"
    log = log_of(tmp_path / "audit")
    told = f"{tree}/{shown}.sig: {shown}: this oracle never made it"
    unread = f"{tree}/{shown}.rpm: expected an RPM,"
    result = blind_oracle("audit", "reconcile", tree, "--log", log, "--cache", tmp_path / "cache")
    assert (result.output.splitlines()[0], result.output.count("\n")) == (told, 3)
    assert result.output.splitlines()[1].startswith(unread)
    result = who_signed(log, foreign, tree / f"{name}.rpm")
    assert result.output == f"{told}\n"
    assert result.errors.startswith(f"blind-oracle: error: {unread}")
    assert result.errors.count("\n") == 1


def test_a_files_name_that_is_no_text_is_one_in_json(tmp_path: Path, gnupg: GnupgHome, built: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    shutil.copy(built, tree / "a\udcff.rpm")
    (tree / "b\udcff.rpm").write_bytes(b"no RPM")
    (tree / "c\udcff").write_bytes(b"c")
    sign_file(tree / "c\udcff", gnupg, "p256", ".sig")
    words = ("--log", log_of(tmp_path / "audit"), "--cache", tmp_path / "cache", "--json")
    outputs = [blind_oracle("audit", "reconcile", tree, *words).output]
    outputs += blind_oracle("audit", "who-signed", *sorted(tree.iterdir()), *words).output.splitlines()
    assert len(outputs) == 5
    for name, found in zip("abcabcc", [*outputs[:1] * 3, *outputs[1:]], strict=True):
        plain: object = json.loads(found)
        text = json.dumps(plain, ensure_ascii=False)
        text.encode()  # half a surrogate pair could not be
        assert rf"/{name}\\xff" in text
