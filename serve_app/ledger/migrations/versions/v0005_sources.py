"""How sources that are kept in step stand"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sync_sources",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("collection", sa.String(length=63), nullable=False),
        sa.Column("seen", sa.JSON(), nullable=False),
        sa.Column("first_at", sa.Float(), nullable=False),
        sa.Column("tried_at", sa.Float(), nullable=False),
        sa.Column("synced_at", sa.Float(), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def downgrade() -> None:
    op.drop_table("sync_sources")
