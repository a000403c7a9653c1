"""The operator's command line, `blind-oracle`: finds the command, runs it, prints its errors.

Exit status: 0 done, 1 it did not work, 2 wrong usage, 129 its terminal went away, 130 interrupted by Ctrl-C, 143 ended
by SIGTERM. Only the command that was named is imported, so that help and completion answer at once.
"""

import importlib
import io
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import NoReturn

import click

from agentproxy import __version__
from agentproxy.admin.visible import visible
from agentproxy.protocol.errors import BlindOracleError, ConfigError
from agentproxy.runtime.output import give_up_output

__all__ = ["main"]

FAILED, USAGE, INTERRUPTED = 1, 2, 130
_COMPLETE = "_BLIND_ORACLE_COMPLETE"  # what click looks for

_EPILOG = (
    "Exit status: 0 done, 1 it did not work, or the answer is no, 2 wrong usage, 129 its terminal went away, "
    "130 interrupted, 143 ended by SIGTERM. `check` says 1 for warnings and 2 when somebody must act; "
    "docs/OPERATIONS.md has all of them."
)

# name: module below `commands` whose `command` it is, and what the overview says
_COMMANDS: Mapping[str, tuple[str, str]] = {
    "init": ("init", "Make a state directory: CA, server certificate, example policy."),
    "key": ("key", "Import, list, show and export signing keys; name the key for a distribution."),
    "runner": ("runner", "Add build servers, list them, and end what they may do."),
    "token": ("token", "List, rotate and revoke the tokens of build servers."),
    "policy": ("policy", "Check the policy, and explain what it decides."),
    "check": ("check", "Look at everything once a day: signer, keys, policy, certificates, log, disk."),
    "certificate": ("certificate", "Renew the oracle's own TLS certificate."),
    "serve": ("serve", "Run the oracle."),
    "reload": ("reload", "Let a running oracle take its policy and TLS certificate anew."),
    "attach": ("attach", "Carry a relay's stream from sshd to the oracle; sshd starts it."),
    "audit": ("audit", "Read and verify the audit log."),
    "backup": ("backup", "Copy log, registry and configuration; see whether an oracle could start from it."),
    "completion": ("completion", "Print what a shell needs to complete our words."),
    "dev": ("dev", "Try it all in one directory, without root."),
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave with its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    serves = words[:1] == ["serve"]
    if not serves:  # systemd takes a daemon that it ends while it starts for failed unless the signal itself ends it
        _take_signals()
    if sys.stdout is None and not serves:  # a daemon may be started so, and prints nothing
        _complain("standard output is closed", "/dev/null takes what nobody wants to read")
        sys.exit(FAILED)
    _take_any_text()
    try:
        status = _group(words).main(words, "blind-oracle", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)  # a group's help, which is no error's words
        sys.exit(USAGE)
    except click.ClickException as error:
        _complain(error.format_message(), _usage_hint(error))
        sys.exit(USAGE if isinstance(error, click.UsageError) else FAILED)
    except (click.Abort, KeyboardInterrupt):  # the latter while a command is imported, before click minds it
        sys.exit(INTERRUPTED)
    except PermissionError as error:  # where a command looked whether something is there, mostly as the wrong user
        if error.filename is None:
            raise
        _complain(f"{os.fsdecode(error.filename)}: {error.strerror}", "run this as root, or as the user whose it is")
        sys.exit(FAILED)
    except OSError as error:
        if said := give_up_output(error):
            _complain(said, "")
        sys.exit(FAILED)
    except (BlindOracleError, ExceptionGroup) as error:
        reasons = list(_leaves(error))
        if not all(isinstance(reason, BlindOracleError) for reason in reasons):
            raise  # a bug of ours: the traceback is what its finder needs
        for reason in reasons:
            _complain(str(reason), reason.hint if isinstance(reason, ConfigError) else "")
        sys.exit(FAILED)
    sys.exit(status if isinstance(status, int) else 0)


def _take_signals() -> None:
    signal.signal(signal.SIGTERM, _leave)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup's word stays
        signal.signal(signal.SIGHUP, _leave)


def _take_any_text() -> None:
    # As on standard error: claims and file names are in any script, and a locale may have one only.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _leave(number: int, _frame: FrameType | None) -> None:
    # So that a command that is told to end takes away what it has begun. One that is about to do so must not be
    # disturbed: then an exception that ends it is being handled.
    if not isinstance(sys.exc_info()[1], KeyboardInterrupt | SystemExit):
        sys.exit(128 + number)


def _group(words: Sequence[str]) -> click.Group:
    group = click.Group(
        "blind-oracle",
        help="Operate a Blind Oracle: it signs digests for build servers that hold no private key.",
        epilog=_EPILOG,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    group = click.version_option(__version__, "-V", "--version", prog_name="blind-oracle")(group)
    # A shell that completes a line says in COMP_WORDS what stands in it: only that command is imported then, too.
    words = [*words, *os.environ.get("COMP_WORDS", "").split()] if _COMPLETE in os.environ else words
    for name, (module, summary) in _COMMANDS.items():
        if name in words:
            group.add_command(importlib.import_module(f"agentproxy.admin.commands.{module}").command, name)
        else:
            group.add_command(click.Command(name, short_help=summary))
    return group


def _usage_hint(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{context.command_path} --help" if context is not None else ""


def _leaves(error: Exception) -> Iterator[Exception]:
    # A daemon's error comes wrapped in one group for each nursery that it passed.
    if isinstance(error, ExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error


def _complain(message: str, hint: str) -> None:
    for kind, text in (("error", message), ("hint", hint)):
        for line in text.splitlines():
            click.echo(f"blind-oracle: {kind}: {visible(line)}", err=True)
