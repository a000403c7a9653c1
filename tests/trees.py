"""Directories that programs which end at their leisure still write into."""

import shutil
import time
from pathlib import Path

__all__ = ["remove_tree"]

SECONDS = 30


def remove_tree(path: Path) -> None:
    """Remove a directory; an agent that was told to end may make and remove files in it meanwhile."""
    end = time.monotonic() + SECONDS
    while path.exists():
        try:
            shutil.rmtree(path)
        except OSError:
            if time.monotonic() > end:
                raise
