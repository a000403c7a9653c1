"""Signatures over HTTP as those see them who verify: rpm, gpg, and the audit log."""

import base64
import json
import subprocess
from io import BytesIO
from pathlib import Path

import pytest

from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.hashstates import HashState
from relay.sealed.rpms import read
from relay.sealed.signatureheader import with_signature
from tests.end_to_end.offline import Offline
from tests.end_to_end.packages import build_packages, is_signed
from tests.end_to_end.place import SECONDS, System

RSA, OTHER = 1, 0


def ask(system: System, path: str, body: dict[str, object]) -> dict[str, object]:
    """POST with curl, the token in the body, which is on nobody's command line."""
    names = {
        name: system.environment[f"BLIND_ORACLE_HTTP{name}"] for name in ("", "_AUTHORITY", "_CERTIFICATE", "_KEY")
    }
    token = Path(system.environment["BLIND_ORACLE_HTTP_TOKEN_FILE"]).read_text().strip()
    command = ["curl", "--silent", "--show-error", "--fail-with-body", "--cacert", names["_AUTHORITY"]]
    command += ["--cert", names["_CERTIFICATE"], "--key", names["_KEY"], "--json", "@-", names[""] + path]
    given = json.dumps({**body, "token": token})
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def packet_of(answer: dict[str, object]) -> bytes:
    """The signature without its armor."""
    lines = str(answer["signature"]).splitlines()
    return base64.b64decode("".join(line for line in lines[lines.index("") + 1 : -1] if not line.startswith("=")))


@pytest.mark.parametrize(("key", "distribution"), [("modern", "el10-x86_64"), ("legacy", "el7-x86_64")])
def test_a_header_signed_over_http_is_a_signed_package_for_rpm(
    system: System, offline: Offline, tmp_path: Path, key: str, distribution: str
) -> None:
    (package,) = build_packages(tmp_path, ["hello"])
    content = package.read_bytes()
    rpm = read(BytesIO(content))
    state = HashState.initial(HashAlgorithm.SHA256).updated(rpm.header)
    claims = {"package": rpm.nevra, "file": package.name}
    body = {"package_hash": str(state), "distribution": distribution, "key_type": key, "claims": claims}

    answer = ask(system, "/sign/rpm", body)

    front = with_signature(rpm.front, packet_of(answer), RSA if key == "legacy" else OTHER)
    signed = tmp_path / "signed.rpm"
    signed.write_bytes(front + rpm.header + content[rpm.front.header_end :])
    assert is_signed(system, offline, key, signed, tmp_path / "database")
    found = answer["record"]
    assert isinstance(found, dict)
    (record,) = [record for record in system.records() if record["sequence"] == found["sequence"]]
    assert (record["operation"], record["outcome"], record["key"]) == ("seal", "signed", key)
    asserted = record["asserted"]
    assert isinstance(asserted, dict)
    assert (asserted["channel"], asserted["distribution"]) == ("http", distribution)
    assert asserted["claims"]["package"] == rpm.nevra
