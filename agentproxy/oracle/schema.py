"""The registry's tables, in terms that SQLite and PostgreSQL share.

Times are text in the wire's form, which sorts as time does; hashes are lower-case hex.
"""

import sqlalchemy as sa

__all__ = [
    "VERSION",
    "certificates",
    "create",
    "generation",
    "metadata",
    "revoked_public_keys",
    "runners",
    "tokens",
    "version",
]

VERSION = 1

metadata = sa.MetaData()

_TIME = sa.String(27)
_SHA256 = sa.String(64)
_NAME = sa.String(64)

generation = sa.Table(
    "generation",
    metadata,
    sa.Column("value", sa.BigInteger, nullable=False),
    sa.Column("schema_version", sa.Integer, nullable=False),
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
)
certificates = sa.Table(
    "certificates",
    metadata,
    sa.Column("sha256", _SHA256, primary_key=True),
    sa.Column("public_key_sha256", _SHA256, nullable=False, index=True),
    sa.Column("runner", _NAME, sa.ForeignKey("runners.name"), nullable=False, index=True),
    sa.Column("created", _TIME, nullable=False),
    sa.Column("expires", _TIME),
)
revoked_public_keys = sa.Table(
    "revoked_public_keys",
    metadata,
    sa.Column("sha256", _SHA256, primary_key=True),
    sa.Column("revoked", _TIME, nullable=False),
)


def create(connection: sa.Connection) -> None:
    """Make the tables, at generation 0."""
    metadata.create_all(connection)
    connection.execute(sa.insert(generation).values(value=0, schema_version=VERSION))


def version(connection: sa.Connection) -> int:
    """Which version of the schema a database has."""
    found: int = connection.execute(sa.select(generation.c.schema_version)).scalar_one()
    return found
