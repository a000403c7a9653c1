"""The commands of `blind-oracle-sign` with their options; `relay.sealed.cli` prints their errors."""

import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import click

from agentproxy import __version__
from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.fields import check_name
from agentproxy.protocol.values import frozen
from agentproxy.runtime.filepath import FilePath
from relay.config import CONFIG_VARIABLE, RelayConfig, config_path, load_config
from relay.sealed.asker import open_asker
from relay.sealed.errors import INTERRUPTED
from relay.sealed.fate import Existing, Way
from relay.sealed.keychoice import KeyWanted, check_for_rpm, hash_algorithm
from relay.sealed.loading import Loading
from relay.sealed.report import Report

if TYPE_CHECKING:
    from relay.sealed.batch import Batch

__all__ = ["run_command"]

_HELP = {"help_option_names": ["-h", "--help"]}
_FILE = FilePath(readable=False)  # what cannot be read is told file by file, and others are signed
_DIGESTS = {"sha256": HashAlgorithm.SHA256, "sha512": HashAlgorithm.SHA512}
_MOST_JOBS = 1024
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_BATCH = "relay.sealed.batch"  # which loads rpm-rs


def run_command(words: Sequence[str]) -> int:
    """Run what `words` say; the exit status."""
    try:
        status = _group.main(list(words), "blind-oracle-sign", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)  # the group's help, which is no error's words
        return 2
    except click.ClickException as error:
        click.echo(f"blind-oracle-sign: error: {error.format_message()}", err=True)
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(f"blind-oracle-sign: hint: {error.ctx.command_path} --help", err=True)
        return 2 if isinstance(error, click.UsageError) else 1
    except click.Abort:
        return INTERRUPTED
    return status if isinstance(status, int) else 0


@frozen
class _Common:
    """What every command can be told."""

    config: Path
    wanted: KeyWanted
    digest: HashAlgorithm | None
    as_json: bool
    quiet: bool

    @classmethod
    def of(cls, context: click.Context) -> Self:
        """As it stands on the command line.

        Raises:
            ConfigError: a name that cannot be one, or nowhere to write what was asked for.
        """
        given = context.params
        if given["as_json"] and sys.stdout is None:
            raise ConfigError("standard output is closed", "/dev/null takes what nobody wants to read")
        wanted = KeyWanted(given["key"], given["key_type"], given["distribution"])
        for option, name in (("--key-type", wanted.key_type), ("--distribution", wanted.distribution)):
            if name is not None:
                _check_name(option, name)
        digest = None if given["digest"] is None else _DIGESTS[given["digest"]]
        return cls(given["config"] or config_path(), wanted, digest, given["as_json"], given["quiet"])


def _check_name(option: str, name: str) -> None:
    try:
        check_name(name, option)
    except RemoteProtocolError as error:
        raise ConfigError(str(error)) from error


_COMMON = (
    click.Option(["--config"], type=_FILE, help=f"relay.yaml; default: ${CONFIG_VARIABLE}, else /etc."),
    click.Option(["--key"], metavar="NAME", help="The key's name, or its or its primary key's fingerprint."),
    click.Option(["--key-type"], metavar="TYPE", help="Only keys of this type, such as modern or legacy."),
    click.Option(["--distribution"], metavar="NAME", help="What the files are for; default: relay.yaml's."),
    click.Option(["--digest"], type=click.Choice(list(_DIGESTS)), help="Default: the first that the key takes."),
    click.Option(["--json", "as_json"], is_flag=True, help="A line of JSON for each file, on standard output."),
    click.Option(["-q", "--quiet"], is_flag=True, help="Say only what went wrong."),
)
_jobs = click.option(
    "--jobs", type=click.IntRange(1, _MOST_JOBS), default=64, show_default=True, help="How many files at once."
)


@click.group(context_settings=_HELP)
@click.version_option(__version__, "-V", "--version", prog_name="blind-oracle-sign")
def _group() -> None:
    """Sign RPMs and files with keys that only the oracle has; neither gpg nor rpm is needed."""


@_group.command("rpm")
@click.argument("files", type=_FILE, nargs=-1, required=True)
@click.option(
    "--existing", type=click.Choice([each.value for each in Existing]), default="replace", show_default=True,
    help="What to do with packages that have a signature.",
)  # fmt: skip
@_jobs
@click.pass_context
def _rpm(context: click.Context, /, files: tuple[Path, ...], existing: str, jobs: int, **_: object) -> int:
    """Sign the headers of RPMs, in place; each is replaced whole or not at all."""
    common = _Common.of(context)
    files = tuple(dict.fromkeys(files))  # the second of two runs on one file would find it changed

    def as_told(way: Way) -> Way:
        check_for_rpm(way.key)
        return replace(way, existing=Existing(existing), jobs=jobs)

    return _run(common, len(files), as_told, lambda batch: batch.sign_rpms(files))


@_group.command("detached")
@click.argument("files", type=_FILE, nargs=-1, required=True)
@click.option("--binary", is_flag=True, help="FILE.sig in binary form, not FILE.asc as text.")
@click.option("-o", "--output", type=_FILE, help="The signature's file; for one FILE only.")
@_jobs
@click.pass_context
def _detached(
    context: click.Context,
    /,
    files: tuple[Path, ...],
    binary: bool,  # noqa: FBT001
    output: Path | None,
    jobs: int,
    **_: object,
) -> int:
    """Write a detached signature beside each FILE."""
    if output is not None and (len(files) != 1 or output == Path("-")):
        raise click.UsageError("--output is for one file, and names one")
    common = _Common.of(context)

    def as_told(way: Way) -> Way:
        return replace(way, armor=not binary, jobs=jobs)

    files = tuple(dict.fromkeys(files))
    return _run(common, len(files), as_told, lambda batch: batch.sign_detached(files, output))


@_group.command("repo")
@click.argument("directories", metavar="DIRECTORIES...", type=_FILE, nargs=-1, required=True)
@click.pass_context
def _repo(context: click.Context, /, directories: tuple[Path, ...], **_: object) -> int:
    """Sign the repodata/repomd.xml of repositories, into repomd.xml.asc beside it."""
    common = _Common.of(context)
    directories = tuple(dict.fromkeys(directories))
    return _run(common, len(directories), lambda way: way, lambda batch: batch.sign_repositories(directories))


for _command in (_rpm, _detached, _repo):
    _command.params.extend(_COMMON)


def _run(common: _Common, total: int, as_told: Callable[[Way], Way], sign: Callable[["Batch"], bool]) -> int:
    logging.basicConfig(
        level=logging.ERROR if common.quiet else logging.WARNING, format="blind-oracle-sign: %(message)s"
    )
    config = load_config(common.config)
    try:
        report = _reported(common, config, total, as_told, sign)
    except _InterruptedError:
        return INTERRUPTED
    report.sum()
    return 0 if report.is_good else 1


class _InterruptedError(Exception):
    """Somebody has ended the run."""


def _reported(
    common: _Common, config: RelayConfig, total: int, as_told: Callable[[Way], Way], sign: Callable[["Batch"], bool]
) -> Report:
    loading = Loading(_BATCH)
    with open_asker(config) as asker:
        wanted = common.wanted
        if wanted.distribution is None:
            wanted = replace(wanted, distribution=config.distribution)
        key = asker.choose(wanted)
        way = as_told(Way(key, hash_algorithm(key, common.digest), wanted.distribution))
        loading.wait()
        from relay.sealed.batch import Batch  # noqa: PLC0415  it was loaded while the oracle was dialled

        with _interrupts() as is_interrupted:
            report = Report(total, as_json=common.as_json, quiet=common.quiet, is_interrupted=is_interrupted)
            with report.writing():
                is_whole = sign(Batch(asker, way, report.tell, is_interrupted))
        if not is_whole or not report.is_written:  # also when only the last lines wait for whoever reads
            raise _InterruptedError
    return report


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Whether somebody has pressed Ctrl-C, cancelled the job, or closed the terminal, since the block began.

    Asked, not raised: in the middle of a step it would leave what is being written under its own name where packages
    lie.
    """
    came: list[int] = []

    def take(number: int, _: object) -> None:
        came.append(number)

    usual = (signal.SIG_DFL, signal.default_int_handler)
    ours = [each for each in _ENDS if signal.getsignal(each) in usual]  # not those that nohup ignores
    before = [(each, signal.signal(each, take)) for each in ours]
    try:
        yield lambda: bool(came)
    finally:
        for each, handler in before:
            signal.signal(each, handler)
