"""Keys of the settings and of the ledger: who gets in, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert
from sqlalchemy.exc import SQLAlchemyError

from serve_app.errors import (
    InvalidRequest,
    LedgerUnavailable,
    NotFound,
    Overloaded,
    PermissionDenied,
    TooManyFailures,
    Unauthenticated,
)
from serve_app.gateway import lookups
from serve_app.gateway.access import Admission, Keyring, Principal
from serve_app.gateway.throttle import Failures
from serve_app.ledger import tables
from serve_app.ledger.database import Database
from serve_app.ledger.keys import Key, Keys, checksum, digest, has_checksum
from serve_app.settings import ApiKey
from tests.fixtures import ledger_file


@dataclass
class Clock:
    now: float = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


class Breakable(Keys):
    """Keys in a ledger that can go away, and how often it was read."""

    broken = False
    hangs = False
    reads = 0
    most_at_once = 0
    _at_once = 0

    async def find(self, sha256: str) -> Key | None:
        self.reads += 1
        if self.broken:
            raise SQLAlchemyError
        if self.hangs:
            await asyncio.Event().wait()
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await super().find(sha256)
        finally:
            self._at_once -= 1


@dataclass
class Door:
    """A keyring and the keys behind it, at one time."""

    database: Database
    keys: Breakable
    clock: Clock

    def __post_init__(self) -> None:
        self.keyring = Keyring((), self.keys, clock=self.clock)

    async def opens(self, secret: str, address: str = "192.0.2.1") -> Principal:
        return await self.keyring.principal(f"Bearer {secret}", address)


def junk(number: int, *, checked: bool = False) -> str:
    """A key that nobody made: as old ones look, or with a right checksum."""
    body = f"tv-{number:043d}"
    return body + checksum(body) if checked else body


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    database, clock = Database(str(ledger_file())), Clock()
    yield Door(database, Breakable(database, clock), clock)
    await database.close()


def listed(secret: str) -> ApiKey:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return ApiKey(name=secret, sha256=digest, tenant=f"tenant of {secret}")


async def test_house_without_keys_lets_nobody_in(door: Door) -> None:
    for authorization in (None, "Bearer none", f"Bearer {junk(1)}"):
        with pytest.raises(Unauthenticated):
            await door.keyring.principal(authorization)


async def test_open_house_lets_everybody_in_and_still_knows_its_keys(door: Door) -> None:
    keyring = Keyring((listed("one"),), door.keys, is_open=True)
    # SDKs that must have a key are given any.
    for authorization in (None, "", "Bearer none", "Bearer sk-proj-1234"):
        principal = await keyring.principal(authorization)
        principal.require("chat")
        principal.require("ingest")
        assert principal.tenant == "default"
    _, secret = await door.keys.create("ann", "acme", ["chat"])
    assert (await keyring.principal(f"Bearer {secret}")).tenant == "acme"
    assert (await keyring.principal("Bearer one")).tenant == "tenant of one"
    with pytest.raises(Unauthenticated, match="not known"):
        await keyring.principal("Bearer tv-wrong")


async def test_listed_key_is_known_by_its_hash_and_has_its_scopes_only(door: Door) -> None:
    keyring = Keyring((listed("one"), listed("two")), door.keys)
    principal = await keyring.principal("Bearer two")
    assert (principal.name, principal.tenant) == ("two", "tenant of two")
    principal.require("chat")
    with pytest.raises(PermissionDenied, match="ingest"):
        principal.require("ingest")
    with pytest.raises(Unauthenticated):
        await keyring.principal(f"Bearer {listed('one').sha256}")


async def test_a_revoked_key_opens_nothing_within_two_seconds(door: Door) -> None:
    key, secret = await door.keys.create("ann", "acme", ["chat"])
    principal = await door.opens(secret)
    assert (principal.name, principal.tenant) == ("ann", "acme")
    await door.keys.revoke(key.id)
    door.clock.now += 3
    with pytest.raises(Unauthenticated, match="revoked"):
        await door.opens(secret)


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
        await door.opens(junk(1))
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
            await door.opens(junk(1))
    assert (await door.opens(other)).name == "bob"


async def test_a_house_whose_keys_were_never_read_is_not_open(door: Door) -> None:
    _, secret = await door.keys.create("ann", "acme", ["chat"])
    door.keys.broken = True
    with pytest.raises(LedgerUnavailable):
        await door.opens(secret)


@pytest.mark.parametrize(
    "secret",
    ["tv-", "tv-wrong", "x" * 52, f"tv-{'a' * 43}aaaaaa", f"tv-{'a' * 42}é", f"tv-{'a' * 44}"],
)
async def test_what_cannot_be_a_key_is_refused_without_a_read(door: Door, secret: str) -> None:
    with pytest.raises(Unauthenticated, match="not known"):
        await door.opens(secret)
    assert door.keys.reads == 0


@given(st.integers(0, 48), st.sampled_from("aA0-_"))
def test_a_key_with_one_character_changed_is_seen_to_be_none(place: int, other: str) -> None:
    secret = junk(7, checked=True)
    changed = secret[: place + 3] + other + secret[place + 4 :]
    assert has_checksum(changed) == (changed == secret)


async def old_key(door: Door) -> str:
    """One made before there were checksums."""
    secret = junk(1_000_000)
    row = {"sha256": digest(secret), "name": "old", "tenant": "acme", "scopes": ["chat"]}
    made = insert(tables.keys).values(id="1", created_at=0.0, **row)
    await door.database.write(lambda connection: connection.execute(made))
    return secret


async def test_a_key_made_before_there_were_checksums_still_opens(door: Door) -> None:
    assert (await door.opens(await old_key(door))).name == "old"


async def test_junk_drives_no_good_key_out_while_the_ledger_is_away(door: Door) -> None:
    _, secret = await door.keys.create("ann", "acme", ["chat"])
    await door.opens(secret)
    for number in range(300):
        with contextlib.suppress(Unauthenticated, TooManyFailures):
            await door.opens(junk(number, checked=True), f"192.0.2.{number % 256}")
    door.keys.broken = True
    door.clock.now += 100
    for number in range(100_000):
        with contextlib.suppress(LedgerUnavailable, TooManyFailures):
            await door.opens(junk(number), f"198.51.{number % 256}.{number // 256 % 256}")
    door.clock.now += 100
    assert (await door.opens(secret)).name == "ann"


async def test_a_flood_of_keys_reads_the_ledger_two_at_a_time(door: Door) -> None:
    _, secret = await door.keys.create("ann", "acme", ["chat"])
    await door.opens(secret)
    door.clock.now += 3
    flood = [door.opens(junk(n, checked=True), f"192.0.2.{n}") for n in range(200)]
    mine = asyncio.create_task(door.opens(secret))
    results = await asyncio.gather(*flood, return_exceptions=True)
    # A good one waits for none of them: it has a place of its own.
    assert (await mine).name == "ann"
    assert door.keys.most_at_once <= 3
    assert {type(each) for each in results} == {Unauthenticated, Overloaded}


async def test_nobody_waits_long_for_a_ledger_that_does_not_answer(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "_PATIENCE_S", 0.1)
    _, secret = await door.keys.create("ann", "acme", ["chat"])
    await door.opens(secret)
    door.keys.hangs = True
    door.clock.now += 3
    flood = [door.opens(junk(n, checked=True), f"192.0.2.{n}") for n in range(60)]
    async with asyncio.timeout(5):
        results = await asyncio.gather(*flood, door.opens(secret), return_exceptions=True)
    assert {type(each) for each in results} == {LedgerUnavailable, Overloaded, Principal}


async def test_a_key_is_looked_up_once_for_all_who_send_it_at_once(door: Door) -> None:
    _, secret = await door.keys.create("ann", "acme", ["chat"])
    await asyncio.gather(*(door.opens(secret) for _ in range(50)))
    assert door.keys.reads == 1


async def test_an_address_that_is_wrong_too_often_has_to_wait(door: Door) -> None:
    refusals = []
    for number in range(40):
        with pytest.raises((Unauthenticated, TooManyFailures)) as caught:
            await door.opens(junk(number))
        refusals.append(caught.value)
    assert [type(each) for each in refusals] == [Unauthenticated] * 20 + [TooManyFailures] * 20
    wait = refusals[-1].retry_after_s
    assert wait is not None
    assert 0 < wait <= 2
    # Others are not asked to, and neither is it when it has waited.
    with pytest.raises(Unauthenticated):
        await door.opens(junk(99), "192.0.2.2")
    door.clock.now += wait
    with pytest.raises(Unauthenticated):
        await door.opens(junk(98))


async def test_good_keys_behind_the_same_proxy_are_not_locked_out(door: Door) -> None:
    _, known = await door.keys.create("ann", "acme", ["chat"])
    _, fresh = await door.keys.create("bob", "acme", ["chat"])
    old = await old_key(door)
    await door.opens(known)
    for number in range(40):
        with pytest.raises((Unauthenticated, TooManyFailures)):
            await door.opens(junk(number))
    assert (await door.opens(known)).name == "ann"
    assert (await door.opens(fresh)).name == "bob"
    assert (await door.opens(old)).name == "old"


def test_an_ipv6_client_is_its_network() -> None:
    failures = Failures(lambda: 0.0)
    for number in range(20):
        failures.add(f"2001:db8::{number:x}")
    assert failures.wait_s("2001:db8::ffff") > 0
    assert failures.wait_s("2001:db8:0:1::1") == 0


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
