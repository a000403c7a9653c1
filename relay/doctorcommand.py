"""`blind-oracle-relay doctor`."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import click

from agentproxy.runtime.filepath import FilePath
from relay.config import config_path
from relay.configoption import config_option

__all__ = ["doctor"]

_MARKS = {"ok": "ok     ", "warning": "WARNING", "bad": "BAD    ", "skipped": "-      "}


@click.command("doctor")
@config_option
@click.option("--home", type=FilePath(), help="The GnuPG home to look at; default: $GNUPGHOME, ~/.gnupg.")
@click.option("--key", "key_name", help="Sign with this key, by the policy's name; default: the first.")
@click.option("--no-sign", is_flag=True, help="Do not sign: a signature leaves a record in the audit log.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def doctor(config: Path | None, home: Path | None, key_name: str | None, no_sign: bool, as_json: bool) -> int:  # noqa: FBT001  click's form
    """Go the whole way of a signature as the user who signs, and say at each step what is wrong and what to type.

    Exit status: 0 it signs (perhaps with warnings), 1 it does not, 2 wrong usage.
    """
    from relay.doctor import WAY, Case, examine  # noqa: PLC0415  each command only its own
    from relay.finding import Verdict  # noqa: PLC0415
    from relay.gpgview import GpgView  # noqa: PLC0415
    from relay.keycheckup import KEYS, signature_check  # noqa: PLC0415

    case = Case(config or config_path(), GpgView((home or _usual_home()).absolute()))
    findings = []
    for finding in examine(case, (*WAY, *KEYS, *(() if no_sign else (signature_check(key_name),)))):
        findings.append(finding)
        if not as_json:
            click.echo(f"{_MARKS[finding.verdict.value]} {finding.check}: {finding.found}")
            if finding.hint:
                click.echo(f"        try: {finding.hint}")
    is_well = all(finding.verdict is not Verdict.BAD for finding in findings)
    if as_json:
        plain = [{**asdict(finding), "verdict": finding.verdict.value} for finding in findings]
        click.echo(json.dumps({"ok": is_well, "home": str(case.gpg.home), "findings": plain}, indent=2))
    return 0 if is_well else 1


def _usual_home() -> Path:
    try:
        return Path(os.environ.get("GNUPGHOME") or Path.home() / ".gnupg")
    except RuntimeError as error:  # no HOME, and a user id of no account, as in a container
        raise click.UsageError("--home is needed: there is no home directory") from error
