"""The ledger's database, as the commands that work on it open it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import typer
from sqlalchemy.exc import SQLAlchemyError

from serve_app.errors import SettingsError
from serve_app.ledger.database import Database
from serve_app.settings import Settings, load

T = TypeVar("T")

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def with_ledger(config: Path, work: Callable[[Database, Settings], Awaitable[T]]) -> T:
    """Do something with the ledger of a settings file, which is made if there is none.

    Raises:
        SettingsError: It cannot be used.
    """
    settings = load(config).resolved(Path.cwd())
    return with_settings(settings, lambda database: work(database, settings))


def with_settings(settings: Settings, work: Callable[[Database], Awaitable[T]]) -> T:
    """The same for settings that have been read.

    Raises:
        SettingsError: The ledger cannot be used.
    """
    ledger = settings.ledger

    async def opened() -> T:
        database = Database(ledger.database, ledger.password.get_secret_value())
        await database.migrate()
        try:
            return await work(database)
        except (SQLAlchemyError, OSError) as error:
            raise SettingsError(
                f"the ledger cannot be used ({type(error).__name__}): see whether ledger.database "
                "answers, then try again"
            ) from error
        finally:
            await database.close()

    return asyncio.run(opened())


def duration(text: str) -> timedelta:
    """`30m`, `12h`, `7d` or `2w`.

    Raises:
        typer.BadParameter: It is none of these.
    """
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not number.isascii() or not number.isdigit() or len(number) > 6:
        raise typer.BadParameter("give a number and m, h, d or w, as in 30m, 12h, 7d, 2w")
    return timedelta(**{_UNITS[unit]: int(number)})


def when(moment: float | None) -> str:
    """A Unix time to the minute, in UTC."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M}" if moment is not None else "–"
