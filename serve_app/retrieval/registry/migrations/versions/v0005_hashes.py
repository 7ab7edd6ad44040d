"""What rows of documents say, by its hash"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Processes of before, which know no hash, go on writing meanwhile.
    hash_ = sa.Column("hash", sa.String(length=32), nullable=False, server_default="")
    op.add_column("copies", hash_)
