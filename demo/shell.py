"""Runs commands as a person would, and prints each one first, so that a reader learns the tools from it."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

__all__ = ["CommandFailedError", "Shell"]


_LEAVE_SECONDS = 30  # for a command that was told to end


class CommandFailedError(Exception):
    """A command of the demo ended otherwise than it should."""


def _wait(process: subprocess.Popen[str]) -> None:
    try:
        process.communicate(timeout=_LEAVE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


class Shell:
    """The reader's shell: a directory, an environment and a terminal.

    Args:
        directory: where commands run; paths below it are shown relative.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = dict(os.environ)
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._bold, self._plain = ("\033[1m", "\033[0m") if colour else ("", "")

    def say(self, text: str) -> None:
        """Print a heading."""
        print(f"\n{self._bold}# {text}{self._plain}", flush=True)

    def add_environment(self, shell_lines: str, *, shown_as: str) -> None:
        """Take the `export NAME=value` lines that a command printed, as `eval` would."""
        print(f"$ {shown_as}", flush=True)
        for line in shell_lines.splitlines():
            words = shlex.split(line)
            if len(words) == 2 and words[0] == "export":
                name, _, value = words[1].partition("=")
                self.environment[name] = value.replace("$PATH", self.environment.get("PATH", ""))

    def run(
        self, *command: str | Path, expect: int | None = 0, quiet: bool = False, also: Mapping[str, str] | None = None
    ) -> str:
        """Print a command, run it, print what it says, and return that.

        Args:
            command: program and arguments.
            expect: the exit status that the demo promises; None for anything but 0.
            quiet: keep the output for us (it is still shown when the status is a surprise).
            also: environment for this command, shown before it.

        Raises:
            CommandFailedError: another exit status.
        """
        words = [str(word) for word in command]
        assignments = "".join(f"{name}={shlex.quote(value)} " for name, value in (also or {}).items())
        print(f"$ {assignments}{self._shown(words)}", flush=True)
        start = time.monotonic()
        status, output = self._result(words, {**self.environment, **(also or {})})
        surprise = status == 0 if expect is None else status != expect
        if not quiet or surprise:
            for line in output.splitlines():
                print(f"    {line}")
        if surprise:
            wanted = "a failure" if expect is None else expect
            raise CommandFailedError(f"{words[0]}: exit status {status}, expected {wanted}")
        if status:
            print(f"    (exit status {status} after {time.monotonic() - start:.1f} s)", flush=True)
        return output

    def _result(self, words: list[str], environment: dict[str, str]) -> tuple[int, str]:
        process = subprocess.Popen(
            words,
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        with process:
            try:
                output, _ = process.communicate()
            except BaseException:
                # Not subprocess.run, which kills at once: what the command has made it shall take away itself.
                process.terminate()
                _wait(process)
                raise
        return process.returncode, output

    def _shown(self, words: list[str]) -> str:
        return shlex.join(words).replace(f"{self.directory}/", "")
