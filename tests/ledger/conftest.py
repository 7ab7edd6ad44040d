"""Ledgers to write to, in both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from serve_app.ledger.database import Database


@pytest.fixture
async def database(address: str) -> AsyncIterator[Database]:
    """With its tables."""
    opened = Database(address)
    await opened.migrate()
    yield opened
    await opened.close()
