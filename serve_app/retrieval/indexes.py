"""The versions of a collection, and which of them is in force.

A collection's name is an alias of the *index* in force, a Milvus collection `<name>__<version>`
that knows by which model it was embedded. Readers and writers address an index; filling a new one
and moving the alias disturbs nobody (`pipeline.reindex`).

An index holds dense vectors (inner product of unit vectors, i.e. cosine) and, where the server can
compute them (2.5 and later, and Lite), BM25 weights of the text.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from dataclasses import dataclass

from serve_app.errors import NotFound, Unavailable
from serve_app.retrieval import schema
from serve_app.retrieval.milvus import Milvus, translated

log = logging.getLogger(__name__)

_ALIAS_TTL_S = 1.0


@dataclass(frozen=True, slots=True)
class Index:
    """One version of a collection.

    Attributes:
        name: Of the Milvus collection, `<collection>__<version>`.
        model: The embedding model's name in the settings.
        chunk_tokens: Upper bound of a chunk.
        sparse: It can be searched by BM25.
        owner: The tenant that made the collection; empty for one made before that was kept.
    """

    name: str
    model: str
    dimension: int
    chunk_tokens: int
    sparse: bool
    owner: str = ""

    @property
    def version(self) -> int:
        return int(self.name.rpartition("__")[2])


class Indexes:
    """Indexes of all collections.

    Every method raises `Unavailable` when Milvus does not answer in time.
    """

    def __init__(self, milvus: Milvus) -> None:
        self._milvus = milvus
        self._client = milvus.client
        self._in_force: dict[str, tuple[float, Index]] = {}
        self._bm25: bool | None = None
        self._owners: dict[str, str] = {}  # by the index's name; they do not change

    @property
    def _timeout(self) -> float:
        return self._milvus.timeout_s

    async def index(self, collection: str) -> Index:
        """The index in force; one that was replaced is noticed within a second.

        Raises:
            NotFound: Nothing was ever put into the collection.
        """
        known = self._in_force.get(collection)
        if known and time.monotonic() - known[0] < _ALIAS_TTL_S:
            return known[1]
        with translated():
            if not await self._client.has_collection(collection, timeout=self._timeout):
                raise NotFound(
                    f"there is no collection {collection!r}; PUT a document into it to create it",
                    param="collection",
                )
            found = await self._described(collection)
        if known is None or known[1].name != found.name:
            await self._milvus.load(found.name)
        self._in_force[collection] = (time.monotonic(), found)
        return found

    async def ensure(
        self, collection: str, model: str, dimension: int, chunk_tokens: int, owner: str = ""
    ) -> Index:
        """The index in force, created if there is none."""
        with contextlib.suppress(NotFound):
            return await self.index(collection)
        made = await self.create(collection, model, dimension, chunk_tokens, owner)
        await self.switch(collection, made.name)
        return made

    async def create(
        self, collection: str, model: str, dimension: int, chunk_tokens: int, owner: str = ""
    ) -> Index:
        """A new, empty index beside those there are; not in force yet."""
        versions = await self.versions(collection)
        name = f"{collection}__{max((each.version for each in versions), default=0) + 1}"
        index = Index(name, model, dimension, chunk_tokens, await self._computes_bm25(), owner)
        with translated():
            await asyncio.to_thread(self._create, index)
        await self._milvus.load(name)
        return index

    async def switch(self, collection: str, name: str) -> None:
        """Put an index in force: from now on the collection's name means it."""
        self._in_force.pop(collection, None)
        with translated():
            if await self._client.has_collection(collection, timeout=self._timeout):
                await self._client.alter_alias(name, collection, timeout=self._timeout)
            else:
                await self._client.create_alias(name, collection, timeout=self._timeout)

    async def drop(self, name: str) -> None:
        """Remove an index that is not in force."""
        with translated():
            await self._client.drop_collection(name, timeout=self._timeout)

    async def remove_collection(self, collection: str) -> None:
        """Remove a collection with all its indexes."""
        versions = await self.versions(collection)
        self._in_force.pop(collection, None)
        if versions:
            with translated():
                # Milvus drops nothing that an alias still names.
                await self._client.drop_alias(collection, timeout=self._timeout)
        for version in versions:
            await self.drop(version.name)

    async def versions(self, collection: str) -> list[Index]:
        """Every index of a collection, oldest first."""
        with translated():
            names = await self._client.list_collections(timeout=self._timeout)
            own = [n for n in names if re.fullmatch(rf"{re.escape(collection)}__\d+", n)]
            found = [await self._described(name) for name in own]
        return sorted(found, key=lambda each: each.version)

    async def owned(self, tenant: str) -> int:
        """How many collections a tenant has made."""
        with translated():
            names = await self._client.list_collections(timeout=self._timeout)
            names = [name for name in names if re.fullmatch(r".+__\d+", name)]
            for name in set(names) - self._owners.keys():
                # Others may have collections on the same server, which are nobody's here.
                about = await self._client.describe_collection(name, timeout=self._timeout)
                self._owners[name] = (about.get("properties") or {}).get("trivium.owner", "")
        mine = [name for name in names if self._owners[name] == tenant]
        return len({name.rpartition("__")[0] for name in mine})

    async def _described(self, name: str) -> Index:
        about = await self._client.describe_collection(name, timeout=self._timeout)
        properties = about.get("properties") or {}
        if "trivium.model" not in properties:
            raise Unavailable(
                f"the collection {name!r} was not made by this version of Trivium; "
                "ingest into another one, or remove it"
            )
        names = {field["name"]: field for field in about["fields"]}
        return Index(
            about["collection_name"],
            properties["trivium.model"],
            int(names["dense"]["params"]["dim"]),
            int(properties["trivium.chunk_tokens"]),
            "sparse" in names,
            properties.get("trivium.owner", ""),
        )

    async def _computes_bm25(self) -> bool:
        if self._bm25 is None:
            with translated():
                version = str(await self._client.get_server_version(timeout=self._timeout))
            self._bm25 = computes_bm25(version)
            if not self._bm25:
                log.warning(
                    "Milvus %s cannot compute BM25 (2.5 and later can): searches are dense only",
                    version,
                )
        return self._bm25

    def _create(self, index: Index) -> None:
        """Blocking: the async client builds indexes by a call that Milvus Lite does not know."""
        with self._milvus.blocking() as client:
            client.create_collection(
                index.name,
                schema=schema.fields(index.dimension, sparse=index.sparse),
                index_params=schema.search_indexes(sparse=index.sparse),
                properties={
                    "trivium.model": index.model,
                    "trivium.chunk_tokens": str(index.chunk_tokens),
                    "trivium.owner": index.owner,
                },
                # Who wrote reads it back at once; others a moment later.
                consistency_level="Session",
                timeout=self._timeout,
            )


def computes_bm25(version: str) -> bool:
    """Whether a server of this version has the BM25 function."""
    if version.startswith("milvus_lite"):
        return True
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= (2, 5)
