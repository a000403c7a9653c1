"""The single looks of `blind-oracle check`; each reads.

None changes anything, but for one: a registry of an older release gets this one's schema, as from every command that
opens it.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from agentproxy.admin.fallbackcheck import look_at_fallback
from agentproxy.admin.filemodes import check_modes, is_missing
from agentproxy.admin.health import Finding, Level, Subject, of_notices
from agentproxy.admin.keylisting import key_rows, key_warnings
from agentproxy.admin.layout import load_oracle, load_signer
from agentproxy.admin.policyreport import judge
from agentproxy.admin.records import ends, last_lines
from agentproxy.admin.servedkeys import served_keys
from agentproxy.admin.servercertificate import HINT, hosts_of, misfits
from agentproxy.admin.signeraccess import ask
from agentproxy.oracle.config import OracleConfig, parse_address
from agentproxy.oracle.expiries import credential_expiries, key_expiries, tls_expiries
from agentproxy.oracle.registry import Registry, RegistryError
from agentproxy.protocol.errors import BackendError, ConfigError, RemoteProtocolError
from agentproxy.protocol.expiry import expiry_notices
from agentproxy.protocol.fields import Head
from agentproxy.protocol.signer_answers import StatusReport
from agentproxy.protocol.signer_requests import Status
from agentproxy.runtime.tlscontext import server_context
from agentproxy.signer.config import SignerConfig
from agentproxy.signer.record import AuditRecord, hash_of_line
from agentproxy.signer.segment import ChainEnd, DamagedError, follow_chain, place_of

__all__ = ["examine"]

TAIL_RECORDS = 1000  # milliseconds; `audit verify` proves the whole log
_ANYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104  compared with, not bound
# Whatever has been read signs on; the next start wants every key that keys.yaml names.
_NO_FILE_HINT = "restore the file, or take the key out of keys.yaml: without it the signer does not start again"
_SIGNER_HINT = "journalctl -u blind-oracle-signer tells why; blind-oracle serve starts it where systemd does not"


def examine(config: Path) -> list[Finding]:
    """Look at everything; what cannot be looked at is a finding, too."""
    try:
        oracle = load_oracle(config)
    except ConfigError as error:
        return [_critical("configuration", error)]
    signer, findings = _signer_config(oracle)
    subject = Subject(config, oracle, signer, served_keys(oracle), datetime.now(UTC))
    for name, look in _LOOKS.items():
        try:
            found = list(look(subject))
        except ConfigError as error:
            found = [_critical(name, error)]
        findings += found or [Finding(name, Level.OK, "good")]
    return findings


def _critical(check: str, error: ConfigError) -> Finding:
    return Finding(check, Level.CRITICAL, str(error), error.hint)


def _signer_config(oracle: OracleConfig) -> tuple[SignerConfig | None, list[Finding]]:
    try:
        return load_signer(oracle), []
    except ConfigError as error:
        # Not a fault: the signer is another user's. But then nobody looks at its files here.
        return None, [Finding("configuration", Level.WARNING, f"the signer's files were not looked at: {error}")]


def _look_at_signer(subject: Subject) -> Iterator[Finding]:
    report = _status(subject)
    if not report.operational:
        yield Finding("signer", Level.CRITICAL, f"it signs nothing: {report.reason}", _SIGNER_HINT)
    else:
        yield Finding(
            "signer", Level.OK, f"operational; keys: {report.keys}, signatures since its start: {report.signatures}"
        )


def _status(subject: Subject) -> StatusReport:
    path = subject.oracle.signer.socket
    try:
        answer = ask(path, Status(0))
    except BackendError as error:
        raise ConfigError(str(error), _SIGNER_HINT) from error
    if not isinstance(answer, StatusReport):
        raise ConfigError(f"{path}: the signer answered {answer.tag} for its status")
    return answer


def _look_at_keys(subject: Subject) -> Iterator[Finding]:
    served, hint = subject.served, "gpg --quick-set-expire extends a key; import it again: blind-oracle key import"
    if not served.are_known:
        raise ConfigError(f"the signer's keys are not known: {served.trouble}")
    yield from of_notices("keys", expiry_notices(key_expiries(served.keys), subject.now), hint)
    yield from _missing_certificates(subject)
    if subject.signer is None:
        for key in served.keys:
            if key.can_certify:
                yield Finding("keys", Level.WARNING, f"key {key.name} can certify" + "; seal only" * key.seal_only)
        return
    rows = key_rows(subject.signer.keys_file, subject.signer.gnupg_home, subject.now)
    ending = {str(row.notice) for row in rows}
    for warning in key_warnings(row for row in rows if row.has_file):
        if warning not in ending:
            yield Finding("keys", Level.WARNING, warning, "docs/SIGNING_STRATEGY.md says what it means")
    for row in rows:
        if not row.has_file:
            (trouble,) = key_warnings([replace(row, notice=None, risks=())])
            yield Finding("keys", Level.CRITICAL, trouble, _NO_FILE_HINT)


def _missing_certificates(subject: Subject) -> Iterator[Finding]:
    directory = subject.oracle.certificates
    for key in subject.served.keys:
        path = directory / f"{key.name}.pgp"
        if is_missing(path):
            message = f"{path}: is missing, so build servers get no OpenPGP certificate of key {key.name}"
            yield Finding("keys", Level.WARNING, message, f"blind-oracle key import --name {key.name} writes it again")


def _look_at_policy(subject: Subject) -> Iterator[Finding]:
    report = judge(subject.oracle.policy, subject.served.keys)
    for finding in report.findings:
        level = Level.WARNING if finding.warning else Level.CRITICAL
        path = f"{finding.path}: " if finding.path else ""
        yield Finding("policy", level, f"{path}{finding.message}", "blind-oracle policy check shows the lines")


def _look_at_registry(subject: Subject) -> Iterator[Finding]:
    place = subject.oracle.registry
    if place is not None and _is_closed(place.parent):
        # Not a fault: the signer's user, who may look at the rest, is not the oracle's.
        yield Finding("registry", Level.WARNING, f"{place}: not looked at: only the oracle's user and root may read it")
        return
    try:
        registry = Registry.open(subject.oracle.database)
        try:
            credentials = registry.snapshot()
        finally:
            registry.close()
    except RegistryError as error:
        raise ConfigError(str(error)) from error
    notices = expiry_notices(credential_expiries(credentials), subject.now)
    hint = "a running relay renews its credentials by itself; blind-oracle runner list shows them"
    yield from of_notices("registry", notices, hint, urgent=False)


def _is_closed(directory: Path) -> bool:
    there, within = (os.access(directory, how, effective_ids=True) for how in (os.F_OK, os.X_OK))
    return there and not within


def _look_at_certificates(subject: Subject) -> Iterator[Finding]:
    tls = subject.oracle.tls
    yield from of_notices("certificates", expiry_notices(tls_expiries(tls), subject.now), HINT)
    yield from _look_at_fit(subject)
    names = hosts_of(tls.certificate)
    dialled = dict.fromkeys(parse_address(address).host for address in _dialled(subject.oracle))
    missing = [host for host in dialled if host.lower() not in names]
    # With the names that it has: `renew` leaves out what is not named.
    hint = f"blind-oracle certificate renew {' '.join(f'--host {name}' for name in (*names, *missing))}"
    for host in missing:
        message = f"{tls.certificate}: not for {host}, so build servers that dial it are turned away"
        yield Finding("certificates", Level.CRITICAL, message, hint)


def _look_at_fit(subject: Subject) -> Iterator[Finding]:
    """Whether an oracle starts with its files, and they are of the CA whose certificates build servers have."""
    tls = subject.oracle.tls
    if os.access(tls.key, os.R_OK):  # who else looks is not the oracle; whether it is there, the file modes tell
        try:
            server_context(tls.certificate, tls.key, tls.authority)
        except ConfigError as error:
            yield Finding("certificates", Level.CRITICAL, str(error), f"no oracle starts so: {HINT}")
    authorities = [tls.authority] if subject.signer is None else [tls.authority, subject.signer.authority.certificate]
    for authority in authorities:
        if trouble := misfits(tls.certificate, authority):
            yield Finding("certificates", Level.CRITICAL, trouble, f"put back the file that was changed, or {HINT}")


def _dialled(oracle: OracleConfig) -> tuple[str, ...]:
    if oracle.addresses:
        return oracle.addresses
    return () if parse_address(oracle.listen).host in _ANYWHERE else (oracle.listen,)


def _look_at_reach(subject: Subject) -> Iterator[Finding]:
    # No warning, which would stay for ever: a proxy or sshd of this host may bring the connections.
    if trouble := subject.oracle.out_of_reach(subject.oracle.listen):
        yield Finding("listen", Level.OK, f"{trouble}: right behind a proxy or sshd, and else nobody gets here")


def _look_at_log(subject: Subject) -> Iterator[Finding]:
    if subject.signer is None:
        yield Finding("audit log", Level.WARNING, "not looked at: where it is, the signer's configuration says")
        return
    try:
        head = _status(subject).head
    except ConfigError:
        head = None  # the signer's own look says so
    directory = subject.signer.audit.directory
    lines = last_lines(ends(directory), TAIL_RECORDS)
    hint = "blind-oracle audit verify says more"
    if not lines:
        yield Finding("audit log", Level.CRITICAL, f"{directory}: no record in it", hint)
        return
    try:
        sequence, prev = place_of(lines[0])
        end = follow_chain(lines, ChainEnd(sequence - 1, prev))
        AuditRecord.parse(lines[-1])
    except (DamagedError, RemoteProtocolError, ValueError) as error:
        yield Finding("audit log", Level.CRITICAL, f"{directory}: {error}", hint)
        return
    if trouble := _not_the_signers(head, lines, end):
        yield Finding("audit log", Level.CRITICAL, f"{directory}: {trouble}", hint)
        return
    yield Finding("audit log", Level.OK, f"its last {len(lines)} records are whole, up to {end.sequence}")


def _not_the_signers(head: Head | None, lines: list[bytes], end: ChainEnd) -> str:
    """Why what the signer says of its log is not what lies there; empty when it fits."""
    if head is None or head.sequence <= end.sequence - len(lines):
        return ""
    if head.sequence > end.sequence:
        return f"it ends with record {end.sequence}, and the signer has written {head.sequence}"
    found = hash_of_line(lines[head.sequence - end.sequence - 1])
    return "" if found == head.hash else f"record {head.sequence} is not the one that the signer wrote"


def _look_at_disk(subject: Subject) -> Iterator[Finding]:
    if subject.signer is None:
        return
    audit = subject.signer.audit
    try:
        status = os.statvfs(audit.directory)
    except OSError as error:
        raise ConfigError(f"{audit.directory}: {error.strerror}") from error
    free = status.f_bavail * status.f_frsize
    hint = "make room: without space for its record nothing is signed"
    message = f"{audit.directory}: {free >> 20} MiB are free, and {audit.reserve_bytes >> 20} MiB are the reserve"
    if free < 2 * audit.reserve_bytes:
        level = Level.CRITICAL if free < audit.reserve_bytes else Level.WARNING
        yield Finding("disk space", level, message, hint)
    else:
        yield Finding("disk space", Level.OK, message)


_LOOKS: dict[str, Callable[[Subject], Iterator[Finding]]] = {
    "signer": _look_at_signer,
    "keys": _look_at_keys,
    "policy": _look_at_policy,
    "registry": _look_at_registry,
    "certificates": _look_at_certificates,
    "listen": _look_at_reach,
    "audit log": _look_at_log,
    "fallback": look_at_fallback,
    "disk space": _look_at_disk,
    "file modes": check_modes,
}
