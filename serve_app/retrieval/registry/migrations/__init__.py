"""The history of the registry's tables, by Alembic."""
