"""Collections, their indexes, documents and files"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "collections",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("owner", sa.LargeBinary(), nullable=False),
        sa.Column("in_force", sa.String(length=80), nullable=True),
        sa.Column("filling", sa.String(length=80), nullable=True),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("removing", sa.Boolean(), nullable=False),
        sa.Column("last_number", sa.Integer(), nullable=False),
        sa.Column("held_by", sa.String(length=32), nullable=True),
        sa.Column("held_until", sa.Float(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_index("collections_by_owner", "collections", ["owner"], unique=False)
    op.create_table(
        "copies",
        sa.Column("index_name", sa.String(length=80), nullable=False),
        sa.Column("key", sa.String(length=32), nullable=False),
        sa.Column("tenant", sa.LargeBinary(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("chunks", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("index_name", "key"),
    )
    op.create_index("copies_by_tenant", "copies", ["index_name", "tenant", "tokens"], unique=False)
    op.create_table(
        "documents",
        sa.Column("collection", sa.String(length=63), nullable=False),
        sa.Column("key", sa.String(length=32), nullable=False),
        sa.Column("tenant", sa.LargeBinary(), nullable=False),
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("problem", sa.LargeBinary(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("title", sa.LargeBinary(), nullable=False),
        sa.Column("as_of", sa.LargeBinary(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("series", sa.LargeBinary(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.LargeBinary(), nullable=False),
        sa.Column("url", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("run", sa.String(length=32), nullable=False),
        sa.Column("allow", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("claim", sa.String(length=32), nullable=True),
        sa.Column("claimed_until", sa.Float(), nullable=True),
        sa.Column("next_version", sa.BigInteger(), nullable=False),
        sa.Column("intent", sa.String(length=8), nullable=False),
        sa.PrimaryKeyConstraint("collection", "key"),
    )
    op.create_index(
        "documents_by_claim",
        "documents",
        ["claim"],
        unique=False,
        sqlite_where=sa.text("claim IS NOT NULL"),
        postgresql_where=sa.text("claim IS NOT NULL"),
    )
    op.create_index(
        "documents_by_end_of_claim",
        "documents",
        ["claimed_until"],
        unique=False,
        sqlite_where=sa.text("claimed_until IS NOT NULL"),
        postgresql_where=sa.text("claimed_until IS NOT NULL"),
    )
    op.create_index("documents_by_id", "documents", ["collection", "tenant", "id"], unique=True)
    op.create_index(
        "documents_by_series",
        "documents",
        ["collection", "tenant", "series", "time", "id"],
        unique=False,
        sqlite_where=sa.text("length(series) > 0"),
        postgresql_where=sa.text("length(series) > 0"),
    )
    op.create_index(
        "documents_by_url",
        "documents",
        ["collection", "tenant", "url"],
        unique=False,
        sqlite_where=sa.text("length(url) > 0"),
        postgresql_where=sa.text("length(url) > 0"),
    )
    op.create_table(
        "files",
        sa.Column("collection", sa.String(length=63), nullable=False),
        sa.Column("tenant", sa.LargeBinary(), nullable=False),
        sa.Column("source", sa.LargeBinary(), nullable=False),
        sa.Column("url", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime", sa.Float(), nullable=False),
        sa.Column("etag", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("problem", sa.LargeBinary(), nullable=False),
        sa.Column("run", sa.String(length=32), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("collection", "tenant", "source", "url"),
    )
    op.create_table(
        "indexes",
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("collection", sa.String(length=63), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("model", sa.LargeBinary(), nullable=False),
        sa.Column("dimension", sa.Integer(), nullable=False),
        sa.Column("chunk_tokens", sa.Integer(), nullable=False),
        sa.Column("sparse", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("retired_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_index("indexes_by_collection", "indexes", ["collection"], unique=False)


def downgrade() -> None:
    op.drop_table("indexes")
    op.drop_table("files")
    op.drop_table("documents")
    op.drop_table("copies")
    op.drop_table("collections")
