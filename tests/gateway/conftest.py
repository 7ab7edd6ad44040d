"""What every test of the gateway leaves behind is closed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fixtures import close_books


@pytest.fixture(autouse=True)
async def _ledgers() -> AsyncIterator[None]:
    yield
    await close_books()
