"""The registry's tables, in terms that SQLite and PostgreSQL share.

Times are text in the wire's form, which sorts as time does; hashes are lower-case hex. `migrations` makes them, step by
step, also in a registry that an older version made.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import command, config

__all__ = [
    "VERSION",
    "applied",
    "certificates",
    "generation",
    "metadata",
    "revoked_public_keys",
    "runners",
    "tokens",
    "upgrade",
    "version",
]

VERSION = "0002"  # the last step in migrations/versions

metadata = sa.MetaData()

_TIME = sa.String(27)
_SHA256 = sa.String(64)
_NAME = sa.String(64)

generation = sa.Table(
    "generation",
    metadata,
    sa.Column("value", sa.BigInteger, nullable=False),
)
runners = sa.Table(
    "runners",
    metadata,
    sa.Column("name", _NAME, primary_key=True),
    sa.Column("created", _TIME, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
)
tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("sha256", _SHA256, primary_key=True),
    sa.Column("id", sa.String(12), nullable=False, unique=True),
    sa.Column("runner", _NAME, sa.ForeignKey("runners.name"), nullable=False, index=True),
    sa.Column("created", _TIME, nullable=False),
    sa.Column("expires", _TIME),
    sa.Column("revoked", _TIME),
    sa.Column("last_used", _TIME),
    sa.Column("kind", sa.String(16), nullable=False, server_default="lasting"),
    sa.Column("replaces", sa.String(12)),
    sa.Column("confirmed", _TIME),
)
certificates = sa.Table(
    "certificates",
    metadata,
    sa.Column("sha256", _SHA256, primary_key=True),
    sa.Column("public_key_sha256", _SHA256, nullable=False, index=True),
    sa.Column("runner", _NAME, sa.ForeignKey("runners.name"), nullable=False, index=True),
    sa.Column("created", _TIME, nullable=False),
    sa.Column("expires", _TIME),
    sa.Column("token", sa.String(12)),
)
applied = sa.Table(
    "applied",
    metadata,
    sa.Column("node", _NAME, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
)
revoked_public_keys = sa.Table(
    "revoked_public_keys",
    metadata,
    sa.Column("sha256", _SHA256, primary_key=True),
    sa.Column("revoked", _TIME, nullable=False),
)


def upgrade(connection: sa.Connection) -> None:
    """Bring a database, empty or of an older version, to VERSION, inside the caller's transaction."""
    steps = config.Config()
    steps.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    steps.attributes["connection"] = connection
    command.upgrade(steps, "head")


def version(connection: sa.Connection) -> str:
    """Which version of the schema a database has; empty: none."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return ""
    found: str = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one()
    return found
