"""What kind a token is and which one it replaces; how far each node's audit log has been applied."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add columns and table; every token so far is a lasting one."""
    op.add_column("tokens", sa.Column("kind", sa.String(16), nullable=False, server_default="lasting"))
    op.add_column("tokens", sa.Column("replaces", sa.String(12)))
    op.add_column("tokens", sa.Column("confirmed", sa.String(27)))
    op.add_column("certificates", sa.Column("token", sa.String(12)))
    op.create_table(
        "applied",
        sa.Column("node", sa.String(64), primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
    )
