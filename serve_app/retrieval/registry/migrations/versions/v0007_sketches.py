"""What each tenant's part of a collection speaks of, for the router"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sketches",
        sa.Column("collection", sa.String(length=63), nullable=False),
        sa.Column("tenant", sa.LargeBinary(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.Column("drawn_to", sa.Float(), nullable=False),
        sa.Column("stale", sa.Integer(), nullable=False),
        sa.Column("kept_at", sa.Float(), nullable=False),
        sa.Column("held_until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("collection", "tenant"),
    )
    op.create_index("sketches_by_change", "sketches", ["kept_at"])
