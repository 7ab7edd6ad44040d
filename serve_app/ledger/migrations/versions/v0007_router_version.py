"""Which heads and which policy chose an answer's road"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("answers") as table:
        table.add_column(sa.Column("router_version", sa.String(80)))


def downgrade() -> None:
    with op.batch_alter_table("answers") as table:
        table.drop_column("router_version")
