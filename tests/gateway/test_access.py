"""Keys of the settings and of the ledger: who gets in, and for how long."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from sqlalchemy.exc import SQLAlchemyError

from serve_app.errors import (
    InvalidRequest,
    LedgerUnavailable,
    NotFound,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
)
from serve_app.gateway.access import Admission, Keyring, Principal
from serve_app.ledger.database import Database
from serve_app.ledger.keys import Key, Keys
from serve_app.settings import ApiKey
from tests.fixtures import ledger_file


@dataclass
class Clock:
    now: float = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


class Breakable(Keys):
    """Keys in a ledger that can go away."""

    broken = False

    async def find(self, sha256: str) -> Key | None:
        if self.broken:
            raise SQLAlchemyError
        return await super().find(sha256)

    async def any(self) -> bool:
        if self.broken:
            raise SQLAlchemyError
        return await super().any()


@dataclass
class Door:
    """A keyring and the keys behind it, at one time."""

    keys: Breakable
    clock: Clock

    def __post_init__(self) -> None:
        self.keyring = Keyring((), self.keys, self.clock)

    async def opens(self, secret: str) -> Principal:
        return await self.keyring.principal(f"Bearer {secret}")


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    database, clock = Database(str(ledger_file())), Clock()
    yield Door(Breakable(database, clock), clock)
    await database.close()


def listed(secret: str) -> ApiKey:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return ApiKey(name=secret, sha256=digest, tenant=f"tenant of {secret}")


async def test_house_without_keys_is_open(door: Door) -> None:
    principal = await door.keyring.principal(None)
    principal.require("chat")
    principal.require("ingest")
    assert principal.tenant == "default"


async def test_listed_key_is_known_by_its_hash_and_has_its_scopes_only(door: Door) -> None:
    keyring = Keyring((listed("one"), listed("two")), door.keys)
    principal = await keyring.principal("Bearer two")
    assert (principal.name, principal.tenant) == ("two", "tenant of two")
    principal.require("chat")
    with pytest.raises(PermissionDenied, match="ingest"):
        principal.require("ingest")
    with pytest.raises(Unauthenticated):
        await keyring.principal(f"Bearer {listed('one').sha256}")


async def test_the_first_key_locks_the_house(door: Door) -> None:
    await door.keyring.principal(None)
    key, secret = await door.keys.create("ann", "acme", ["chat"])
    door.clock.now += 3
    with pytest.raises(Unauthenticated, match="send an API key"):
        await door.keyring.principal(None)
    principal = await door.opens(secret)
    assert (principal.name, principal.tenant) == ("ann", "acme")
    await door.keys.revoke(key.id)
    door.clock.now += 3
    with pytest.raises(Unauthenticated, match="revoked"):
        await door.opens(secret)
    with pytest.raises(Unauthenticated):
        await door.keyring.principal(None)


async def test_nobody_else_is_called_as_the_house_is(door: Door) -> None:
    with pytest.raises(InvalidRequest, match="warm-up"):
        await door.keys.create("warm-up", "acme", ["chat"])
    with pytest.raises(ValueError, match="what the house calls itself"):
        ApiKey(name="warm-up", sha256="0" * 64)


async def test_a_key_expires(door: Door) -> None:
    _, secret = await door.keys.create("ann", "acme", ["chat"], door.clock.now + 60)
    await door.opens(secret)
    door.clock.now += 60
    with pytest.raises(Unauthenticated, match="expired"):
        await door.opens(secret)


async def test_a_rotated_key_goes_on_beside_the_new_one_for_a_while(door: Door) -> None:
    old, secret = await door.keys.create("ann", "acme", ["chat"], door.clock.now + 1000)
    door.clock.now += 10
    new, fresh = await door.keys.rotate(old.id, overlap_s=100)
    assert (new.name, new.tenant, new.scopes) == ("ann", "acme", ("chat",))
    assert new.expires_at == door.clock.now + 1000
    await door.opens(secret)
    await door.opens(fresh)
    door.clock.now += 101
    await door.opens(fresh)
    with pytest.raises(Unauthenticated):
        await door.opens(secret)
    with pytest.raises(NotFound, match="keys list"):
        await door.keys.rotate(old.id, 0)


async def test_the_ledger_holds_no_key(door: Door) -> None:
    _, secret = await door.keys.create("ann", "acme", ["chat"])
    (known,) = await door.keys.all()
    assert secret.removeprefix("tv-") not in repr(known)
    assert await door.keys.find(secret) is None
    assert await door.keys.find(hashlib.sha256(secret.encode()).hexdigest()) == known


async def test_who_was_let_in_is_let_in_while_the_ledger_is_away(door: Door) -> None:
    _, secret = await door.keys.create("ann", "acme", ["chat"])
    await door.opens(secret)
    door.keys.broken = True
    door.clock.now += 100
    await door.opens(secret)
    with pytest.raises(LedgerUnavailable):
        await door.opens("tv-another")
    door.clock.now += 1000
    with pytest.raises(LedgerUnavailable):
        await door.opens(secret)


async def test_keys_are_looked_up_again_however_many_ask_meanwhile(door: Door) -> None:
    _, secret = await door.keys.create("ann", "acme", ["chat"])
    _, other = await door.keys.create("bob", "acme", ["chat"])
    await door.opens(secret)
    door.keys.broken = True
    door.clock.now += 3
    with pytest.raises(LedgerUnavailable):
        await door.opens(other)
    door.keys.broken = False
    for _ in range(4):
        door.clock.now += 1
        with contextlib.suppress(LedgerUnavailable, Unauthenticated):
            await door.opens("tv-somebody-else-asks-all-the-time")
    assert (await door.opens(other)).name == "bob"


async def test_a_house_whose_keys_were_never_read_is_not_open(door: Door) -> None:
    door.keys.broken = True
    with pytest.raises(LedgerUnavailable):
        await door.keyring.principal(None)


def test_place_is_given_back_even_after_a_failure() -> None:
    admission = Admission(1)
    with pytest.raises(ZeroDivisionError), admission.admitted():
        raise ZeroDivisionError
    with admission.admitted(), pytest.raises(Overloaded), admission.admitted():
        pass
    with admission.admitted():
        pass


@pytest.mark.parametrize("name", ["", "x" * 65, "a\x1fb", "a\nb"])
async def test_names_that_limits_could_not_tell_apart_are_refused(door: Door, name: str) -> None:
    with pytest.raises(InvalidRequest, match="no name"):
        await door.keys.create(name, "acme", ["chat"])
    with pytest.raises(InvalidRequest, match="no name"):
        await door.keys.create("ann", name, ["chat"])
