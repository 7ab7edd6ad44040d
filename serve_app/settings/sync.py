"""Sources that a knowledge base is kept in step with (`trivium sync`)."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, SecretStr, field_validator, model_validator
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from serve_app.settings.base import Group, Name, Seconds, Section

_NAME = r"[a-z][a-z0-9_-]{0,62}"
_COLLECTION = rf"^{_NAME}$"
_COLUMN = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")]


class TableSource(Section):
    """A table, or a view, of a database: a document for each row.

    Attributes:
        url: SQLAlchemy's: `postgresql://user@host/name`, or `sqlite:///path`. No password.
        password: Of the user; it belongs into the environment.
        table: `name`, or `schema.name`.
        id: The column that tells rows apart.
        text, title: Columns of what documents say.
        cursor: A column that grows with every change, as `updated_at`: what is below what was seen
            is not read again. Without one every row is read each time.
        metadata: Columns that searches may filter by.
        allow: A column with the groups that a row is for, with commas between.
    """

    url: str
    password: SecretStr = SecretStr("")
    table: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$")
    id: _COLUMN = "id"
    text: _COLUMN = "text"
    title: _COLUMN | None = None
    cursor: _COLUMN | None = None
    metadata: tuple[_COLUMN, ...] = ()
    allow: _COLUMN | None = None

    @field_validator("url")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            url = make_url(value)
        except ArgumentError:
            url = None
        if url is None or url.get_backend_name() not in ("postgresql", "sqlite"):
            raise ValueError("must be postgresql://user@host/name or sqlite:///path")
        if url.password:
            raise ValueError("the password does not belong here; set password to it")
        return value


class SourceSettings(Section):
    """What a knowledge base is kept in step with: one of `files`, `sitemap` and `table`.

    Attributes:
        files: A folder, a glob or an fsspec URL (`s3://bucket/handbook`, `gs://…`, `abfs://…`).
        sitemap: The https:// address of a website's sitemap; pages of its host alone are taken.
        tenant: Whose documents they are; over HTTP the API key says it.
        every_s: How often it is looked at.
        allow: Groups that its documents are for, where those name none themselves.
    """

    files: str | None = None
    sitemap: str | None = Field(default=None, pattern=r"^https://[^\s/@]+/\S*$")
    table: TableSource | None = None
    collection: str = Field(default="default", pattern=_COLLECTION)
    tenant: Name = "default"
    every_s: Seconds = 900.0
    allow: tuple[Group, ...] = ()

    @model_validator(mode="after")
    def _one(self) -> SourceSettings:
        if sum(each is not None for each in (self.files, self.sitemap, self.table)) != 1:
            raise ValueError("name one of files, sitemap and table")
        return self


class SyncSettings(Section):
    """What knowledge bases are kept in step with.

    Attributes:
        sources: By their names, which documents and metrics keep: choose them for good.
    """

    sources: dict[str, SourceSettings] = Field(default_factory=dict)

    @field_validator("sources")
    @classmethod
    def _named(cls, sources: dict[str, SourceSettings]) -> dict[str, SourceSettings]:
        for name in sources:
            if not re.fullmatch(_NAME, name):
                raise ValueError(
                    f"{name!r} is no name of a source: small letters, digits, - and _, at most 63"
                )
        return sources
