"""`blind-oracle runner`."""

import os
from pathlib import Path

import click

from agentproxy.admin.enrolment import add_runner
from agentproxy.admin.layout import config_option, load_oracle
from agentproxy.admin.policyfile import add, runner_addition
from agentproxy.oracle.policy import Policy
from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.config import load

__all__ = ["command"]


@click.group("runner")
def command() -> None:
    """Add build servers."""


@command.command("add")
@click.argument("name")
@click.option(
    "--output", type=click.Path(path_type=Path), help="Where the enrolment file goes. [default: NAME.enrolment]"
)
@click.option("--key", "keys", multiple=True, help="A key of the policy that it may use. May be repeated.")
@click.option(
    "--policy-add", is_flag=True, help="Add the runner to the policy file, too, instead of showing the lines."
)
@config_option
def add_(
    name: str,
    output: Path | None,
    keys: tuple[str, ...],
    policy_add: bool,  # noqa: FBT001  a flag of the command line
    config: Path,
) -> None:
    """Add the build server NAME and write its enrolment file: like a password, for a day and one use.

    On the build server `blind-oracle-relay enroll FILE` exchanges it for credentials that renew themselves.
    What the build server may do, the policy says.
    """
    oracle = load_oracle(config)
    policy = load(oracle.policy, Policy)
    unknown = [key for key in keys if key not in policy.keys]
    if unknown:
        raise ConfigError(f"{oracle.policy}: no key {unknown[0]}", f"known: {', '.join(policy.keys) or 'none yet'}")
    if policy_add and not keys:
        raise ConfigError("--policy-add: expected --key, too", f"known: {', '.join(policy.keys) or 'none yet'}")
    addition = runner_addition(name, keys or ("KEY",))
    if policy_add:  # first: an entry without credentials does nothing, and can be tried again
        add(oracle.policy, addition)
    file = output or Path(f"{name}.enrolment")
    descriptor = _reserve(file)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(add_runner(oracle, name))
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    click.echo(f"added runner {name}; within a day, on that host: blind-oracle-relay enroll {file}")
    if policy_add:
        click.echo(f"{oracle.policy}: runners.{name} added; a running oracle takes it when you send it SIGHUP")
    elif name not in policy.runners:
        click.echo(f"for {oracle.policy}, without which it may do nothing:\n{addition.by_hand()}", nl=False)


def _reserve(file: Path) -> int:
    """Make the file before anything else, so that credentials never exist without a place for them."""
    try:
        return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise ConfigError(f"{file}: is there already", "choose another with --output") from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be made: {error.strerror}") from error
