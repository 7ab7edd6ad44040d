"""API keys: made, found by what a client sends, rotated and revoked.

Of a key only its SHA-256 is kept. That needs no salt and no slow hash, which protect passwords: a
key is 256 random bits, so that nobody can try them out. A key ends with a checksum, so that what
cannot be one is refused without a look-up; keys made before there was one have none.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
import uuid
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import insert, select, update

from serve_app.domain import EVERY_GROUP, WARM_UP
from serve_app.errors import InvalidRequest, NotFound
from serve_app.ledger import tables
from serve_app.ledger.database import Database
from serve_app.settings import GROUP, NAME

PREFIX = "tv-"
_BODY = rf"{PREFIX}[A-Za-z0-9_-]{{43}}"  # 256 bits
State = Literal["valid", "expired", "revoked"]


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key; itself is not.

    Attributes:
        groups: Whose documents it reads, beside those that are for everybody.
        expires_at, revoked_at: Unix seconds; `None` is never.
    """

    id: str
    name: str
    tenant: str
    scopes: tuple[str, ...]
    groups: tuple[str, ...]
    created_at: float
    expires_at: float | None
    revoked_at: float | None

    def state(self, now: float) -> State:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "valid"


def digest(secret: str) -> str:
    """What is kept of a key: its SHA-256 in hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def is_possible(secret: str) -> bool:
    """Whether this can be a key of ours at all."""
    return has_checksum(secret) or re.fullmatch(_BODY, secret) is not None


def has_checksum(secret: str) -> bool:
    """Whether this is a key with a checksum, and the checksum is right."""
    body, end = secret[:-6], secret[-6:]
    return re.fullmatch(_BODY, body) is not None and end == checksum(body)


def checksum(body: str) -> str:
    """Six characters: the CRC-32 in base64."""
    crc = zlib.crc32(body.encode()).to_bytes(4, "big")
    return base64.urlsafe_b64encode(crc).decode().rstrip("=")


class Keys:
    """The keys in the ledger's database."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def create(
        self,
        name: str,
        tenant: str,
        scopes: Sequence[str],
        expires_at: float | None = None,
        groups: Sequence[str] = (),
    ) -> tuple[Key, str]:
        """A new key, and the secret itself, which is not to be had again.

        Raises:
            InvalidRequest: A name that limits could not tell from others, or the house's own; or a
                group that is none.
        """
        for group in groups:
            if group != EVERY_GROUP and not re.fullmatch(GROUP, group):
                raise InvalidRequest(
                    f"{group!r} is no name of a group: 1 to 64 characters, none of control, no "
                    "quotes, commas or backslashes"
                )
        for text in (name, tenant):
            if not re.fullmatch(NAME, text) or text == WARM_UP:
                raise InvalidRequest(
                    f"{text!r} is no name of a key or tenant: 1 to 64 characters, none of control, "
                    f"and not {WARM_UP!r}"
                )
        body = PREFIX + secrets.token_urlsafe(32)
        secret = body + checksum(body)
        key = Key(
            id=uuid.uuid4().hex[:12],
            name=name,
            tenant=tenant,
            scopes=tuple(sorted(scopes)),
            groups=tuple(sorted(set(groups))),
            created_at=self._clock(),
            expires_at=expires_at,
            revoked_at=None,
        )
        row = {
            "id": key.id,
            "sha256": digest(secret),
            "name": name,
            "tenant": tenant,
            "scopes": list(key.scopes),
            "groups": list(key.groups),
            "created_at": key.created_at,
            "expires_at": expires_at,
        }
        made = insert(tables.keys).values(row)
        await self._database.write(lambda connection: connection.execute(made))
        return key, secret

    async def rotate(self, key_id: str, overlap_s: float) -> tuple[Key, str]:
        """A new key in an old one's place, which goes on for `overlap_s` beside it.

        Raises:
            NotFound: There is no such key, or it is not valid any more.
        """
        old = await self._valid(key_id)
        lasted = None if old.expires_at is None else old.expires_at - old.created_at
        ends = None if lasted is None else self._clock() + lasted
        made = await self.create(old.name, old.tenant, old.scopes, ends, old.groups)
        until = self._clock() + overlap_s
        if old.expires_at is None or until < old.expires_at:
            await self._change(key_id, {"expires_at": until})
        return made

    async def revoke(self, key_id: str) -> Key:
        """End a key now.

        Raises:
            NotFound: There is no such key, or it is not valid any more.
        """
        key = await self._valid(key_id)
        await self._change(key_id, {"revoked_at": self._clock()})
        return key

    async def all(self) -> list[Key]:
        """Those that ended too; the newest first."""
        chosen = select(tables.keys).order_by(tables.keys.c.created_at.desc())
        return await self._database.read(
            lambda connection: [_key(row) for row in connection.execute(chosen).mappings()]
        )

    async def find(self, sha256: str) -> Key | None:
        """The key with this digest, whatever its state."""
        chosen = select(tables.keys).where(tables.keys.c.sha256 == sha256)
        row = await self._database.read(
            lambda connection: connection.execute(chosen).mappings().one_or_none()
        )
        return _key(row) if row else None

    async def close(self) -> None:
        """Let the database go."""
        await self._database.close()

    async def _valid(self, key_id: str) -> Key:
        for key in await self.all():
            if key.id == key_id and key.state(self._clock()) == "valid":
                return key
        raise NotFound(f"there is no valid key {key_id!r}; see `trivium keys list`")

    async def _change(self, key_id: str, values: dict[str, Any]) -> None:
        changed = update(tables.keys).where(tables.keys.c.id == key_id).values(values)
        await self._database.write(lambda connection: connection.execute(changed))


def _key(row: Any) -> Key:
    return Key(
        id=row["id"],
        name=row["name"],
        tenant=row["tenant"],
        scopes=tuple(row["scopes"]),
        groups=tuple(row["groups"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )
