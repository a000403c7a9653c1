"""`blind-oracle policy`."""

import json
from collections.abc import Sized
from pathlib import Path

import click

from agentproxy.admin.layout import config_option, load_oracle
from agentproxy.admin.policyreport import PolicyReport, judge, line_of, lines_in
from agentproxy.admin.servedkeys import ServedKeys, served_keys
from agentproxy.admin.visible import visible
from agentproxy.oracle.caller import Caller
from agentproxy.oracle.config import OracleConfig
from agentproxy.oracle.policy import Allow, Deny, Policy, Question, explain
from agentproxy.protocol.codes import RefusalCode
from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.fields import check_name
from agentproxy.runtime.config import load
from agentproxy.runtime.filepath import FilePath

__all__ = ["command"]

_json = click.option("--json", "as_json", is_flag=True, help="For machines.")
_HASHES = click.Choice([algorithm.name.lower() for algorithm in HashAlgorithm])


@click.group("policy")
def command() -> None:
    """Check the policy, and explain what it decides."""


@command.command("check")
@click.argument("file", type=FilePath(), required=False)
@_json
@config_option
@click.pass_context
def check_(context: click.Context, file: Path | None, as_json: bool, config: Path) -> None:  # noqa: FBT001  a flag
    """Report every mistake and every risk in the policy FILE, each with its line and its path.

    Without FILE it is the configured one. The keys that the signer serves are looked at, too, where it can be asked
    or its keys file be read: only then combinations such as an Ed25519 key for EL9 are found.

    Exit status: 0 an oracle takes this file (there may be warnings), 1 it does not.
    """
    oracle = load_oracle(config) if file is None or config.exists() else None
    served = served_keys(oracle) if oracle is not None else ServedKeys((), "", "no configuration names a signer")
    report = judge(_file(file, oracle), served.keys)
    click.echo(json.dumps(_plain(report, served)) if as_json else _words(report, served))
    context.exit(1 if report.errors else 0)


@command.command("explain")
@click.argument("runner")
@click.argument("key")
@click.option("--distribution", help="What the request would name, such as el10-x86_64.")
@click.option("--hash", "hash_name", type=_HASHES, default="sha256", show_default=True)
@click.option("--seal", is_flag=True, help="For a signature that the signer writes whole.")
@click.option("--file", type=FilePath(), help="Another policy than the configured one.")
@_json
@config_option
@click.pass_context
def explain_(  # noqa: PLR0913, PLR0917  one parameter for each option
    context: click.Context,
    runner: str,
    key: str,
    distribution: str | None,
    hash_name: str,
    seal: bool,  # noqa: FBT001  a flag of the command line, as the next one
    file: Path | None,
    as_json: bool,  # noqa: FBT001
    config: Path,
) -> None:
    """Say whether RUNNER would get a signature with KEY, a name from the policy, and by which line of the file.

    Exit status: 0 it would, 1 it would not.
    """
    oracle = load_oracle(config)
    path = _file(file, oracle)
    question = Question(HashAlgorithm[hash_name.upper()], distribution, seal=seal)
    explained = _explained(load(path, Policy), _checked(runner, "RUNNER"), key, question, served_keys(oracle))
    lines = lines_in(path)
    if as_json:
        click.echo(json.dumps(_plain_decision(explained, path, lines)))
    elif isinstance(explained, Allow):
        rule = explained.runner
        click.echo(f"allowed by {explained.rule}  ({_place(path, line_of(lines, explained.rule))})")
        limit = "not limited" if rule.rate is None else f"{rule.rate} signatures a second"
        click.echo(f"priority {rule.priority.value}, {limit}")
    else:
        for denied in explained:
            place = _place(path, line_of(lines, denied.rule))
            click.echo(visible(f"refused, {denied.code}: {denied.reason}  ({place})"))
    context.exit(0 if isinstance(explained, Allow) else 1)


def _explained(
    policy: Policy, runner: str, key: str, question: Question, served: ServedKeys
) -> Allow | tuple[Deny, ...]:
    rule = policy.keys.get(key)
    if rule is None:
        raise ConfigError(f"the policy has no key {key}", f"known: {', '.join(policy.keys) or 'none yet'}")
    if question.distribution is not None:
        _checked(question.distribution, "--distribution")
    if not served.are_known:
        raise ConfigError(f"the signer's keys are not known: {served.trouble}", "start it, or run this as its user")
    facts = next((each for each in served.keys if each.fingerprint == rule.fingerprint), None)
    if facts is None:
        return (Deny(RefusalCode.KEY_UNKNOWN, f"keys.{key}.fingerprint: the signer serves no such key"),)
    return explain(policy, Caller(runner, "", ""), key, question, facts)


def _file(file: Path | None, oracle: OracleConfig | None) -> Path:
    if file is not None:
        return file
    if oracle is None:
        raise ConfigError("expected a policy file")
    return oracle.policy


def _checked(name: str, what: str) -> str:
    try:
        check_name(name, what)
    except RemoteProtocolError as error:
        raise ConfigError(str(error)) from error
    return name


def _place(file: Path, line: int | None) -> str:
    return str(file) if line is None else f"{file}:{line}"


def _words(report: PolicyReport, served: ServedKeys) -> str:
    lines = []
    for finding in report.findings:
        kind = "warning" if finding.warning else "error"
        path = f"{finding.path}: " if finding.path else ""
        lines.append(f"{_place(report.file, finding.line)}: {kind}: {path}{finding.message}")
    lines += dict.fromkeys(f"hint: {finding.hint}" for finding in report.findings if finding.hint)
    if not served.are_known:
        lines.append(f"note: the signer's keys were not looked at: {served.trouble}")
    if report.policy is not None:
        keys, runners = _count(report.policy.keys, "key"), _count(report.policy.runners, "runner")
        lines.append(f"{report.file}: {keys}, {runners}")
    lines.append(f"{_count(report.errors, 'error')}, {_count(report.warnings, 'warning')}")
    return "\n".join(map(visible, lines))


def _count(things: Sized, word: str) -> str:
    return f"{len(things)} {word}{'s' * (len(things) != 1)}"


def _plain(report: PolicyReport, served: ServedKeys) -> dict[str, object]:
    problems = [
        {
            "severity": "warning" if finding.warning else "error",
            "path": finding.path,
            "line": finding.line,
            "message": finding.message,
            "hint": finding.hint,
        }
        for finding in report.findings
    ]
    return {
        "file": str(report.file),
        "good": not report.errors,
        "problems": problems,
        "keys_from": served.source or None,
        "keys_unknown_because": served.trouble,
    }


def _plain_decision(explained: Allow | tuple[Deny, ...], file: Path, lines: dict[str, int]) -> dict[str, object]:
    if isinstance(explained, Allow):
        by = [{"path": explained.rule, "line": line_of(lines, explained.rule)}]
    else:
        by = [
            {"path": each.rule, "line": line_of(lines, each.rule), "code": each.code.value, "reason": each.reason}
            for each in explained
        ]
    return {"allowed": isinstance(explained, Allow), "file": str(file), "by": by}
