"""How Alembic reaches the database: by the connection that `Database.migrate` hands over."""

from __future__ import annotations

from alembic import context

from serve_app.retrieval.registry.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    # The ledger may be in the same database, with a history of its own.
    version_table="registry_version",
)
with context.begin_transaction():
    context.run_migrations()
