"""What is not in the documents of an address that was read"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("job_urls") as table:
        table.add_column(sa.Column("left_out", sa.Text(), nullable=False, server_default=""))


def downgrade() -> None:
    with op.batch_alter_table("job_urls") as table:
        table.drop_column("left_out")
