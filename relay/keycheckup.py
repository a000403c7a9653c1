"""The second half of `doctor`: which keys this user's gpg can sign with, whether rpm knows such keys, a signature."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from agentproxy.protocol.values import frozen
from relay.control_call import ask
from relay.doctor import Case, Check
from relay.finding import Finding, bad, good, skipped, warning
from relay.gpgview import PublicSubkey, program_version
from relay.keychoice import outcome_line, requests_by
from relay.status import ControlRequest, SocketReport, StatusReport

__all__ = ["KEYS", "signature_check"]

_ASKED = 20  # requests; ours is the last one, unless this host is busy
# Since which rpm signatures by such keys are good, as seen with Debian's (docs/CONFORMANCE.md); others may know more.
_RPM_SINCE = {"ed25519": (4, 18), "ed448": (99,), "nistp256": (4, 20), "nistp384": (4, 20), "nistp521": (4, 20)}


@frozen
class _Key:
    """What gpg is to sign with."""

    name: str
    fingerprint: str


def _keys(case: Case) -> list[_Key]:
    """The keys that the socket shows which this user's gpg comes to: the oracle's, or the host's own in fallback."""
    if case.status is None:
        return []
    if case.falls_back:
        return _own(case)
    door = _door(case)
    shown = [key for key in case.status.keys if door is None or not door.keys or key.name in door.keys]
    return [_Key(key.name, str(key.fingerprint)) for key in shown]


def _own(case: Case) -> list[_Key]:
    fallback = case.status.fallback if case.status is not None else None
    return [_Key(f"this host's {key.name}", str(key.fingerprint)) for key in fallback.keys] if fallback else []


def _door(case: Case) -> SocketReport | None:
    if case.status is None or case.place is None:
        return None
    place = case.place if case.place.exists() else case.gpg.home / "relay-socket"
    return next((one for one in case.status.sockets if os.path.realpath(one.path) == os.path.realpath(place)), None)


def check_keys(case: Case) -> Finding:
    """Is any key served to this user?"""
    if case.status is None:
        return skipped("keys", case.why_no_status or "no relay to ask")
    keys = _keys(case)
    if keys:
        return good("keys", ", ".join(key.name for key in keys))
    if case.status.keys:
        hint = f"keys of this socket in {case.file}"
        return bad("keys", "the relay has keys, and this socket shows none of them", hint)
    hint = f"on the oracle's host: keys of {case.runner} in policy.yaml, and reload"
    return bad("keys", "the oracle serves this runner no key", hint)


def check_keyring(case: Case) -> Finding:
    """Are their public keys in gpg's home, and good?"""
    keys = _keys(case)
    if not keys:
        return skipped("keyring", "no keys to look for")
    known = case.gpg.signing_keys()
    missing = [key.name for key in keys if key.fingerprint not in known]
    hint = f"as root: blind-oracle-relay keyrings; or: {case.set_up}"
    if missing:
        return bad("keyring", f"gpg does not know the public key of {', '.join(missing)}", hint)
    faults = [f"{key.name} is {known[key.fingerprint].fault}" for key in keys if known[key.fingerprint].fault]
    if faults:
        return bad("keyring", "; ".join(faults), f"{hint}; if that does not help, the key's owner must extend it")
    if any(key.fingerprint not in known for key in _own(case)):
        return warning("keyring", "this host's own key is missing: gpg would not sign in fallback", hint)
    return good("keyring", f"{len(keys)} of {len(keys)} public keys are in {case.gpg.home}")


def check_choice(case: Case) -> Finding:
    """Which subkey will gpg choose, of each certificate?"""
    keys, known = _keys(case), case.gpg.signing_keys()
    chosen = _chosen(keys, known)
    if not chosen:
        return skipped("choice", "no key to choose from")
    names = "; ".join(
        f"{key.name}: --local-user {known[key.fingerprint].primary} signs with subkey {key.fingerprint}"
        for key in chosen
    )
    passed = [key.name for key in keys if key not in chosen]
    if passed:
        hint = "gpg takes the newest; name another by its fingerprint and an exclamation mark"
        return warning("choice", f"{names}; not chosen: {', '.join(passed)}", hint)
    return good("choice", names)


def _chosen(keys: Sequence[_Key], known: dict[str, PublicSubkey]) -> list[_Key]:
    """gpg's own rule: of a certificate's keys that can sign and that the agent has, the newest that is good."""
    best: dict[str, tuple[int, _Key]] = {}
    for key in keys:
        public = known.get(key.fingerprint)
        if public is not None and not public.fault and public.created >= best.get(public.primary, (-1, key))[0]:
            best[public.primary] = (public.created, key)
    return [key for _, key in best.values()]


def check_rpm(case: Case) -> Finding:
    """Can this host's rpm verify what such keys sign?"""
    version, known = program_version("rpm", "--version"), case.gpg.signing_keys()
    if version == "":
        return warning("rpm", "rpm does not tell its version", "rpm --version says why")
    algorithms = {key.name: known[key.fingerprint].algorithm for key in _keys(case) if key.fingerprint in known}
    if version is None or not algorithms:
        return skipped("rpm", "rpm is not installed" if version is None else "no keys")
    number = tuple(int(part) for part in version.split(".")[:2])
    unknown = [f"{name} ({what})" for name, what in algorithms.items() if number < _RPM_SINCE.get(what, (0,))]
    if unknown:
        hint = "an RSA key is good for every rpm: docs/SIGNING_STRATEGY.md"
        return warning("rpm", f"rpm {version} cannot verify signatures by {', '.join(unknown)}", hint)
    return good("rpm", f"rpm {version} can verify signatures by {', '.join(sorted(set(algorithms.values())))} keys")


def signature_check(key_name: str | None) -> Check:
    """A check that signs once, as gpg does for a user, and leaves a record in the audit log.

    Args:
        key_name: the policy's name of the key; None: the first that gpg would choose.
    """

    def check_signature(case: Case) -> Finding:
        user = _user(case, key_name)
        if not case.greeted:
            return skipped("signature", "something before it is missing")
        return _sign(case, user) if user is not None else _no_user(case, key_name)

    return check_signature


def _user(case: Case, key_name: str | None) -> str | None:
    if case.status is None:
        return next((key.fingerprint for key in case.gpg.signing_keys().values() if not key.fault), None)
    wanted = [key for key in _keys(case) if key_name in {None, key.name}]
    return next((key.fingerprint for key in _chosen(wanted, case.gpg.signing_keys())), None)


def _no_user(case: Case, key_name: str | None) -> Finding:
    """That gpg cannot sign, unless a check before this one has said so: it must not pass for well."""
    if case.status is None:
        return bad("signature", f"no good key that can sign is in {case.gpg.home}", case.set_up)
    names = [key.name for key in _keys(case)]
    if key_name is not None and key_name not in names:
        return bad("signature", f"there is no key {key_name} here", f"--key with one of: {', '.join(names) or 'none'}")
    return skipped("signature", "something before it is missing")


def _sign(case: Case, fingerprint: str) -> Finding:
    with tempfile.TemporaryDirectory(prefix="blind-oracle-doctor.") as name:
        file = Path(name) / "test"
        file.write_text("signed by blind-oracle-relay doctor, to see whether it works\n")
        sign = ("gpg", "--batch", "--no-tty", "--local-user", f"{fingerprint}!", "--armor", "--detach-sign")
        done = case.gpg.run(*sign, str(file))
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["gpg did not say why"])[-1]
            reason = _reason(case, name)
            return bad("signature", f"{said}; {reason}" if reason else said, _way_out(said))
        checked = case.gpg.run("gpg", "--batch", "--status-fd", "1", "--verify", f"{file}.asc", str(file))
    if f"VALIDSIG {fingerprint} " not in checked.stdout:
        return bad("signature", "gpg does not believe its own signature", "blind-oracle-relay status --last")
    return good("signature", f"signed and verified, by {fingerprint}")


def _reason(case: Case, text: str) -> str:
    """What the relay says of our request, which shows by the file's name in gpg's command line."""
    if case.status is None or case.config is None:
        return ""
    status = ask(case.config.control_socket, ControlRequest("status", _ASKED), StatusReport)
    return "; ".join(f"the relay: {outcome_line(entry)}" for entry in requests_by(status, text)[-1:])


# The words that gpg prints, and what helps.
_WORDS = {
    "Forbidden": "the oracle's policy says no: blind-oracle policy explain RUNNER KEY on its host",
    "Network error": "no oracle in reach: see network above",
    "Timeout": "the oracle did not answer in time: blind-oracle check on its host",
    "Not operational": "the oracle cannot sign now: blind-oracle check on its host",
    "No secret key": "the relay does not serve this key: see keys and keyring above",
    "Limit reached": "too many signatures in a short time: rate of this runner in the oracle's policy.yaml",
    "No agent running": "no relay answers: see socket and relay above",
}


def _way_out(said: str) -> str:
    return next((hint for words, hint in _WORDS.items() if words in said), "blind-oracle-relay status --last")


KEYS: Sequence[Check] = (check_keys, check_keyring, check_choice, check_rpm)
