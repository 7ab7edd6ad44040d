"""The document registry: what the knowledge base is to hold, beside the index that finds it.

Milvus holds chunks. The registry says which documents there are, in which version, and in which
index each version is; so a crash, a race or a change of index can be told from what was meant, and
mended. Every change of a document goes through it (`writing`):

    claim    the document is this writer's for a while, and gets a version that nobody had
    write    its rows go to Milvus under that version, beside those of the version in force
    commit   from now on the new version is in force, everywhere at once
    release  rows of other versions have been removed; the next writer may come

A writer that dies leaves a claim behind that ends by itself. Rows of a version that was never
committed, or that is no longer in force, are told by their version and removed
(`mending`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from serve_app import database
from serve_app.database import Database
from serve_app.retrieval.registry.collections import Collections
from serve_app.retrieval.registry.documents import Documents
from serve_app.retrieval.registry.files import Files
from serve_app.settings import RetrievalSettings

_REGISTRY = database.Kept("retrieval.registry", "serve_app.retrieval.registry:migrations")


class Registry:
    """All of it, in one database.

    Attributes:
        collections: Collections and their indexes.
        documents: Documents and their copies in indexes.
        files: What bulk runs have read.

    Args:
        clock: Unix seconds.
    """

    def __init__(
        self, address: str, password: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        self._database = Database(_REGISTRY, address, password)
        self.collections = Collections(self._database, clock)
        self.documents = Documents(self._database, clock)
        self.files = Files(self._database, clock)

    @classmethod
    def of(cls, settings: RetrievalSettings) -> Registry:
        """The registry that the settings name."""
        return cls(settings.registry, settings.registry_password.get_secret_value())

    async def open(self) -> None:
        """Make the tables, or bring those of an earlier version up to date.

        Raises:
            SettingsError: The database cannot be reached, or is not ours to alter.
        """
        await self._database.migrate()

    async def close(self) -> None:
        await self._database.close()
