"""How indexes find vectors, and why so"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    kind = sa.Column("vector_index", sa.String(length=16), nullable=False, server_default="")
    reason = sa.Column("vector_index_reason", sa.Text(), nullable=False, server_default="")
    op.add_column("indexes", kind)
    op.add_column("indexes", reason)
