"""Corrections of what a call took, and counters by period"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "corrections",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("call_id", sa.String(length=32), nullable=False),
        sa.Column("corrected_at", sa.Float(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("prompt_tokens_before", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens_before", sa.BigInteger(), nullable=False),
        sa.Column("cost_nanos_before", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_nanos", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("corrections", schema=None) as batch_op:
        batch_op.create_index("corrections_by_call", ["call_id"], unique=False)
    with op.batch_alter_table("counters", schema=None) as batch_op:
        batch_op.create_index("counters_by_period", ["period"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("counters", schema=None) as batch_op:
        batch_op.drop_index("counters_by_period")
    with op.batch_alter_table("corrections", schema=None) as batch_op:
        batch_op.drop_index("corrections_by_call")

    op.drop_table("corrections")
