"""The history of the ledger's tables, by Alembic."""
