"""Paths on the command lines of all programs."""

import os
from pathlib import Path

import click

__all__ = ["FilePath"]


class FilePath(click.Path):  # noqa: TID251  the only one
    """A path, and not an empty text: what `--home "$UNSET"` leaves would be the current directory.

    Args:
        file_okay, dir_okay, exists, readable: as click has them, for what is there already.
    """

    def __init__(
        self, *, file_okay: bool = True, dir_okay: bool = True, exists: bool = False, readable: bool = True
    ) -> None:
        super().__init__(exists, file_okay, dir_okay, readable=readable, path_type=Path)

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """The value as a Path.

        Raises:
            click.BadParameter: it is empty, or what is there is something else.
        """
        if value == "":
            self.fail("expected a path, got an empty text", param, ctx)
        if self.file_okay and self.dir_okay and not self.exists and not self.readable:
            return Path(value)  # nothing is to be looked at, which for hundreds of files takes a while
        return super().convert(value, param, ctx)
