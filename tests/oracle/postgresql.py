"""A real PostgreSQL server on a Unix socket of its own, for as long as tests need it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

__all__ = ["Server", "server"]

SECONDS = 60.0
# Debian puts each version into a directory of its own, and none into PATH.
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
SETTINGS = ["listen_addresses=''", "fsync=off", "log_min_messages=fatal", "max_connections=50"]


class Server:
    """A running server; every test gets a database of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._databases = 0

    def new_database(self) -> str:
        """libpq's words for a fresh and empty one."""
        self._databases += 1
        name = f"registry{self._databases}"
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.conninfo(name)

    def conninfo(self, database: str) -> str:
        """How to reach a database of this server."""
        return f"host={self.directory} user=postgres dbname={database}"

    def stop(self) -> None:
        """Stop at once, as a server that dies does; `start` brings it back."""
        self._control("stop", "-m", "immediate")

    def start(self) -> None:
        """Start, and return when it answers."""
        options = " ".join(f"-c {setting}" for setting in (f"unix_socket_directories='{self.directory}'", *SETTINGS))
        self._control("start", "-w", "-l", str(self.directory / "log"), "-o", options)

    def make(self) -> None:
        """Make its files."""
        _run("initdb", "-D", str(self.directory / "data"), "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8")

    def _control(self, *words: str) -> None:
        _run("pg_ctl", "-D", str(self.directory / "data"), *words)


@contextmanager
def server() -> Iterator[Server]:
    """A server that is there when the block begins and gone when it ends."""
    directory = Path(tempfile.mkdtemp(prefix="bopg", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(directory, "postgres", "postgres")  # it refuses to run as root
    made = Server(directory)
    try:
        made.make()
        made.start()
        yield made
        made.stop()
    finally:
        shutil.rmtree(directory)


def _run(program: str, *words: str) -> None:
    user = "postgres" if os.geteuid() == 0 else None
    command = [str(PROGRAMS[-1].with_name(program)), *words]
    # Not our pipes: the server would inherit them, and we would wait for their end.
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            command,
            user=user,
            group=user,
            extra_groups=[] if user else None,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=SECONDS,
            check=False,
        )
        output.seek(0)
        assert done.returncode == 0, output.read().decode(errors="replace")
