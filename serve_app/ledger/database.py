"""Where the ledger is kept."""

from __future__ import annotations

from serve_app import database

_LEDGER = database.Kept("ledger.database", "serve_app.ledger:migrations")


class Database(database.Database):
    """The ledger's tables; see `serve_app.database`."""

    def __init__(self, address: str, password: str = "") -> None:
        super().__init__(_LEDGER, address, password)
