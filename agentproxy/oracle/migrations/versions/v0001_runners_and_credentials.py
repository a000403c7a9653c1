"""Runners, tokens, certificates, revoked public keys, and the generation that tells oracles of a change."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables of the first version, at generation 0."""
    time, sha256, name = sa.String(27), sa.String(64), sa.String(64)
    generation = op.create_table("generation", sa.Column("value", sa.BigInteger, nullable=False))
    op.bulk_insert(generation, [{"value": 0}])
    op.create_table(
        "runners",
        sa.Column("name", name, primary_key=True),
        sa.Column("created", time, nullable=False),
        sa.Column("disabled", sa.Boolean, nullable=False),
    )
    op.create_table(
        "tokens",
        sa.Column("sha256", sha256, primary_key=True),
        sa.Column("id", sa.String(12), nullable=False, unique=True),
        sa.Column("runner", name, sa.ForeignKey("runners.name"), nullable=False, index=True),
        sa.Column("created", time, nullable=False),
        sa.Column("expires", time),
        sa.Column("revoked", time),
        sa.Column("last_used", time),
    )
    op.create_table(
        "certificates",
        sa.Column("sha256", sha256, primary_key=True),
        sa.Column("public_key_sha256", sha256, nullable=False, index=True),
        sa.Column("runner", name, sa.ForeignKey("runners.name"), nullable=False, index=True),
        sa.Column("created", time, nullable=False),
        sa.Column("expires", time),
    )
    op.create_table(
        "revoked_public_keys",
        sa.Column("sha256", sha256, primary_key=True),
        sa.Column("revoked", time, nullable=False),
    )
