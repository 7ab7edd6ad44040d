"""How Alembic reaches the database: by the connection that `Database.migrate` hands over."""

from __future__ import annotations

from alembic import context

from serve_app.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
