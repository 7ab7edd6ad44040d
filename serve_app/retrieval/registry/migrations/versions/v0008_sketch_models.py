"""Which model made the vectors of a sketch: those of another are drawn anew"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "sketches", sa.Column("model", sa.String(length=64), nullable=False, server_default="")
    )
