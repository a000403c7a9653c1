"""`blind-oracle check`."""

import json
from pathlib import Path

import click

from agentproxy.admin.health import Finding, Level, worst
from agentproxy.admin.healthchecks import examine
from agentproxy.admin.layout import config_option
from agentproxy.admin.visible import visible

__all__ = ["command"]


@click.command("check")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing of what is well: for cron.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@config_option
@click.pass_context
def command(context: click.Context, quiet: bool, as_json: bool, config: Path) -> None:  # noqa: FBT001  flags
    """Look at the whole oracle, once a day or from monitoring; nothing is changed.

    Looks at the signer, keys, policy, registry, certificates (60, 30 and 7 days before anything ends), the end of the
    audit log, disk space and file modes; and keeps naming what somebody accepted: build servers with a token only, keys
    that can certify.

    Exit status: 0 all is well, 1 warnings, 2 somebody must act.
    """
    findings = examine(config)
    if as_json:
        click.echo(json.dumps({"status": worst(findings).name.lower(), "checks": [_plain(each) for each in findings]}))
    else:
        for finding in findings:
            if finding.level is not Level.OK or not quiet:
                _tell(finding)
    context.exit(worst(findings))


def _tell(finding: Finding) -> None:
    for line in finding.message.splitlines():
        click.echo(f"{finding.level.name.lower():9} {finding.check}: {visible(line)}")
    for line in finding.hint.splitlines():
        click.echo(f"{'':9}   {visible(line)}")


def _plain(finding: Finding) -> dict[str, str]:
    level = finding.level.name.lower()
    return {"check": finding.check, "status": level, "message": finding.message, "hint": finding.hint}
