"""Key files: every form that agents write, and everything that is not one."""

import contextlib
import hashlib
import os
import re
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import KeyUnavailableError
from agentproxy.protocol.keys import Curve, EccPublicKey, Keygrip
from agentproxy.signer import keyfile, verify
from agentproxy.signer.keytext import MAX_FILE, Node, canonical, parse_expression, parse_text
from agentproxy.signer.software import SoftwareBackend
from tests.signer.agent import AgentBackend
from tests.signer.conftest import ALGORITHMS, PASSPHRASE, GnupgHome, new_home

DIGEST = Digest(HashAlgorithm.SHA512, hashlib.sha512(b"content").digest())
SALT = b"\x01saltsal"
IV = bytes(range(16))
SECRETS = {b"rsa": b"dpqu", b"dsa": b"x", b"ecc": b"d"}


def file_of(home: GnupgHome, name: str) -> bytes:
    return keyfile.key_path(home.path, home.grips[name]).read_bytes()


def expression_of(home: GnupgHome, name: str) -> Node:
    return parse_text(file_of(home, name))


def signs(untrusted: bytes, keygrip: Keygrip, passphrase: bytes | None = None) -> bool:
    key = keyfile.parse(untrusted, keygrip, passphrase)
    verify.check(key.public, DIGEST, SoftwareBackend({keygrip: key}).sign(keygrip, DIGEST))
    return True


def protected_cbc(expression: Node, passphrase: bytes, count: int = 65536, *, stamped: bool = True) -> bytes:
    """The form that agents before 2.1.19 wrote, as agent/protect.c makes it."""
    _, key, *_ = expression
    inner, secret = list(key), SECRETS[key[0]]
    hidden = [item for item in inner[1:] if item[0] in {bytes([letter]) for letter in secret}]
    plain = [item for item in inner if item not in hidden]
    stamp = [(b"protected-at", b"20100101T000000")] if stamped else []
    check = hashlib.sha1(canonical((*plain, *hidden, *stamp)), usedforsecurity=False).digest()
    text = canonical((tuple(hidden), (b"hash", b"sha1", check)))
    padding = os.urandom(16 - len(text) % 16)
    unit = SALT + passphrase
    hashed = (unit * (count // len(unit) + 1))[: max(count, len(unit))]
    key_octets = hashlib.sha1(hashed, usedforsecurity=False).digest()[:16]
    encryptor = Cipher(algorithms.AES(key_octets), modes.CBC(IV)).encryptor()
    sealed = (b"protected", b"openpgp-s2k3-sha1-aes-cbc", ((b"sha1", SALT, str(count).encode()), IV))
    return canonical((b"protected-private-key", (*plain, (*sealed, encryptor.update(text + padding)), *stamp)))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_canonical_form_of_older_agents_is_read(home: GnupgHome, name: str) -> None:
    assert signs(canonical(expression_of(home, name)), home.grips[name])


@pytest.mark.parametrize("stamped", [True, False])
@pytest.mark.parametrize("name", ["rsa2048", "dsa2048", "ed25519", "p256"])
def test_the_cbc_form_is_read(home: GnupgHome, name: str, stamped: bool) -> None:
    untrusted = protected_cbc(expression_of(home, name), b"old passphrase", stamped=stamped)
    assert signs(untrusted, home.grips[name], b"old passphrase")


@pytest.mark.parametrize("name", ["rsa2048", "ed25519"])
def test_a_real_agent_reads_our_cbc_form_too(home: GnupgHome, name: str) -> None:
    old, grip = new_home(), home.grips[name]
    try:
        target = keyfile.key_path(old.path, grip)
        target.parent.mkdir(mode=0o700)
        target.write_bytes(protected_cbc(expression_of(home, name), PASSPHRASE.encode()))
        target.chmod(0o600)
        key = keyfile.load(old.path, grip, PASSPHRASE.encode())
        agent = AgentBackend(old.path, {grip: key.public}, PASSPHRASE)
        try:
            assert agent.sign(grip, DIGEST) == SoftwareBackend({grip: key}).sign(grip, DIGEST)
        finally:
            agent.close()
    finally:
        old.remove()


def test_a_coded_count_of_very_old_agents_is_read(home: GnupgHome) -> None:
    untrusted = protected_cbc(expression_of(home, "ed25519"), b"x").replace(b"5:65536", b"2:96")
    assert signs(untrusted, home.grips["ed25519"], b"x")


def test_a_passphrase_longer_than_the_count_is_hashed_whole(home: GnupgHome) -> None:
    passphrase = b"p" * 70_000
    assert signs(protected_cbc(expression_of(home, "ed25519"), passphrase), home.grips["ed25519"], passphrase)


def test_the_default_count_opens(tmp_path: Path) -> None:
    made = new_home(s2k_count=None)
    try:
        made.make("slow", "ed25519", PASSPHRASE)
        assert signs(file_of(made, "slow"), made.grips["slow"], PASSPHRASE.encode())
    finally:
        made.remove()


@pytest.mark.parametrize("shorter", [0, 1])
def test_an_ed448_key_signs(shorter: int) -> None:
    # gpg 2.2 makes none; this is the form of gpg 2.4, with or without OpenPGP's prefix before the point.
    private = ed448.Ed448PrivateKey.from_private_bytes(bytes(range(57)))
    point = private.public_key().public_bytes_raw()
    lists = (b"ecc", (b"curve", b"Ed448"), (b"q", b"\x40" * shorter + point), (b"d", private.private_bytes_raw()))
    assert signs(canonical((b"private-key", lists)), EccPublicKey(Curve.ED448, point).keygrip)


def test_a_seed_whose_zero_octets_were_dropped_is_read(home: GnupgHome) -> None:
    kind, (name, curve, flags, _, _), *_ = expression_of(home, "ed25519")
    private = ed25519.Ed25519PrivateKey.from_private_bytes(b"\x00" + bytes(range(1, 32)))
    point = private.public_key().public_bytes_raw()
    grip = EccPublicKey(Curve.ED25519, point).keygrip
    for seed in (bytes(range(1, 32)), b"\x00\x00" + bytes(range(1, 32))):
        lists = (name, curve, flags, (b"q", b"\x40" + point), (b"d", seed))
        assert signs(canonical((kind, lists)), grip)


# What libgcrypt may write for one octet string, depending on its content.
ATOMS = [
    (b"abc", b"abc"),
    (b"-x.y/z_:*+=", b"-x.y/z_:*+="),
    (b"#6162 6a\n6B#", b"abjk"),
    (b'"two words"', b"two words"),
    (rb'"\b\t\v\n\f\r\"\'\\"', b"\b\t\v\n\f\r\"'\\"),
    (rb'"\x00\xfF\101"', b"\x00\xffA"),
    (b'"a\\\nb"', b"ab"),
    (b'"\xa1\xff"', b"\xa1\xff"),
    (b'""', b""),
    (b"3:a)(", b"a)("),
    (b"0:", b""),
]


@pytest.mark.parametrize(("text", "value"), ATOMS)
def test_every_form_of_an_atom_is_read(text: bytes, value: bytes) -> None:
    assert parse_expression(b"(x " + text + b")") == (b"x", value)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"(",
        b")",
        b"x)",
        b"(x",
        b"(x))",
        b"(x)y",
        b"(x) (y)",
        b"(#6#)",
        b"(#6g#)",
        b"(#66)",
        b'("a)',
        rb'("\q")',
        rb'("\x0")',
        rb'("\400")',
        b"(5:abc)",
        b"(00003:abc)",
        b"(99999999999999999999:a)",
        b"(12a:b)",
        b"([hint]x)",
        b"(|YWJj|)",
        b"(" * 13 + b")" * 13,
        b"(" + b"x " * 513 + b")",
    ],
)
def test_what_is_no_expression_is_refused(text: bytes) -> None:
    with pytest.raises(KeyUnavailableError):
        parse_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"Created: now\n",
        b"Key:\n",
        b"Key: x\nKey: y\n",
        b"no colon\n",
        b" Key: x\n",
        b"1Key: x\n",
        b"Key: (x)\n trailing\n",
        b"Key: " + b"x" * MAX_FILE,
        b"\xff\xfe",
    ],
)
def test_what_is_no_key_file_is_refused(text: bytes) -> None:
    with pytest.raises(KeyUnavailableError):
        keyfile.parse(text, Keygrip(bytes(20)))


def test_comments_other_fields_and_any_case_are_read() -> None:
    text = b'# a comment\n\nDescription: one\n two\nKEY: (a\n  "b\n   c"\n )\nLabel: x\n'
    assert parse_text(text) == (b"a", b"b  c")


@pytest.mark.parametrize("name", ["rsa2048", "dsa2048", "ed25519", "p256"])
def test_a_key_with_any_one_number_changed_is_refused(home: GnupgHome, name: str) -> None:
    kind, key, *_ = expression_of(home, name)
    for index, item in enumerate(key[1:], 1):
        changed = (*key[:index], (item[0], item[1][:-1] + bytes([item[1][-1] ^ 2])), *key[index + 1 :])
        if item[0] == b"flags":
            continue
        with pytest.raises(KeyUnavailableError) as caught:
            keyfile.parse(canonical((kind, changed)), home.grips[name])
        assert item[1].hex() not in str(caught.value)


@pytest.mark.parametrize("name", ["rsa2048", "dsa2048", "ed25519", "p256"])
def test_a_key_without_one_of_its_numbers_is_refused(home: GnupgHome, name: str) -> None:
    kind, key, *_ = expression_of(home, name)
    for index, item in enumerate(key[1:], 1):
        if item[0] == b"flags":
            continue
        for rest in (key[:index] + key[index + 1 :], (*key, item), (*key[:index], (item[0], b""), *key[index + 1 :])):
            with pytest.raises(KeyUnavailableError):
                keyfile.parse(canonical((kind, rest)), home.grips[name])


@pytest.mark.parametrize(
    ("pattern", "replacement", "words"),
    [
        (rb"protected-at", rb"protected-as", "wrong passphrase"),
        (rb"65536", rb"65535", "count"),
        (rb"65536", rb"4000000001", "count"),
        (rb"65536", rb"-1", "count"),
        (rb"65536", rb"070000", "count"),
        (rb"ocb-aes", rb"ocb-xes", "unknown form"),
        (rb"openpgp-s2k3-ocb-aes", rb"openpgp-native", "never unlocked"),
        (rb"\(protected ", rb"(protested ", "one list"),
        (rb"\(sha1", rb"(sha2", "unknown form"),
        (rb"protected-private-key", rb"shadowed-private-key", "stub"),
        (rb"protected-private-key", rb"private-key", "pair"),
        (rb"protected-private-key", rb"public-key", "not a private key"),
        (rb"\(ecc", rb"(elg", "wrong passphrase"),
    ],
)
def test_a_protected_file_with_one_change_is_refused(
    locked_home: GnupgHome, pattern: bytes, replacement: bytes, words: str
) -> None:
    changed, number = re.subn(pattern, replacement, canonical_text(file_of(locked_home, "ed25519")), count=1)
    assert number == 1
    with pytest.raises(KeyUnavailableError, match=words):
        keyfile.parse(changed, locked_home.grips["ed25519"], PASSPHRASE.encode())


def canonical_text(untrusted: bytes) -> bytes:
    """The same file without folding, so that a pattern cannot fall on the end of a line."""
    head, _, value = untrusted.partition(b"Key:")
    return head + b"Key:" + value.replace(b"\n ", b"").replace(b"\n", b"") + b"\n"


@pytest.mark.parametrize("name", ["rsa2048", "ed25519"])
def test_a_file_cut_off_anywhere_is_refused(home: GnupgHome, locked_home: GnupgHome, name: str) -> None:
    whole = file_of(home, name).rstrip()
    for size in range(len(whole)):
        with pytest.raises(KeyUnavailableError):
            keyfile.parse(whole[:size], home.grips[name])


def test_one_flipped_bit_anywhere_in_a_protected_file_never_gives_another_key(locked_home: GnupgHome) -> None:
    whole, grip = file_of(locked_home, "ed25519"), locked_home.grips["ed25519"]
    for place in range(0, len(whole), 3):
        changed = whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
        try:
            key = keyfile.parse(changed, grip, PASSPHRASE.encode())
        except KeyUnavailableError:
            continue
        assert key.public.keygrip == grip


def test_an_error_names_the_file_and_shows_nothing_of_the_key(locked_home: GnupgHome, tmp_path: Path) -> None:
    grip = locked_home.grips["rsa2048"]
    target = keyfile.key_path(tmp_path, grip)
    target.parent.mkdir(mode=0o700)
    shutil.copy(keyfile.key_path(locked_home.path, grip), target)
    with pytest.raises(KeyUnavailableError) as caught:
        keyfile.load(tmp_path, grip, b"hunter2")
    assert str(caught.value).startswith(f"{target}: ")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_no_repr_shows_a_secret(home: GnupgHome) -> None:
    for name in ALGORITHMS:
        _, inner, *_ = expression_of(home, name)
        key = keyfile.load(home.path, home.grips[name])
        secrets = [
            item[1] for item in inner[1:] if item[0] in {b"d", b"p", b"q", b"u", b"x"} and name.startswith("rsa")
        ]
        secrets += [item[1] for item in inner[1:] if item[0] in {b"d", b"x"}]
        shown = repr(key) + repr(SoftwareBackend({home.grips[name]: key}))
        assert secrets
        assert not any(repr(secret)[2:-1] in shown or secret.hex() in shown for secret in secrets)


def test_a_link_loop_a_directory_and_a_pipe_are_refused(tmp_path: Path) -> None:
    grip = Keygrip(bytes(20))
    path = keyfile.key_path(tmp_path, grip)
    path.parent.mkdir(mode=0o700)
    path.mkdir()
    with pytest.raises(KeyUnavailableError):
        keyfile.load(tmp_path, grip)
    path.rmdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(KeyUnavailableError):
        keyfile.load(tmp_path, grip)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(KeyUnavailableError):
        keyfile.load(tmp_path, grip)


GRAMMAR = st.recursive(
    st.binary(max_size=8).map(lambda value: b"%d:%s" % (len(value), value))
    | st.sampled_from([b"rsa", b"ecc", b"d", b"protected", b"private-key", b"#00#", b'"a"', b"curve Ed25519", b"sha1"]),
    lambda children: st.lists(children, max_size=4).map(lambda items: b"(" + b" ".join(items) + b")"),
    max_leaves=12,
)


@settings(max_examples=400)
@given(st.binary(max_size=300) | GRAMMAR | GRAMMAR.map(lambda text: b"Key: " + text + b"\n"))
def test_any_octets_are_a_key_or_our_error(untrusted: bytes) -> None:
    for passphrase in (None, b"x"):
        with contextlib.suppress(KeyUnavailableError):
            keyfile.parse(untrusted, Keygrip(bytes(20)), passphrase)


@settings(max_examples=200)
@given(data=st.data())
def test_any_change_of_a_real_file_is_a_key_or_our_error(home: GnupgHome, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["rsa2048", "dsa2048", "ed25519", "p256"]))
    whole = file_of(home, name)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 8)))
    changed = whole[:start] + data.draw(st.binary(max_size=8)) + whole[end:]
    try:
        key = keyfile.parse(changed, home.grips[name])
    except KeyUnavailableError:
        return
    assert key.public.keygrip == home.grips[name]
