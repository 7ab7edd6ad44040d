"""Which hits of a search still stand.

Milvus 2.3.5 has shown rows for minutes after it was told to remove them, though strong consistency
was asked for; why is not known (docs/lab-notes.md). The registry knows what is in force. So a
document that was removed, or is for others now, is not found, whatever Milvus says.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from serve_app.errors import Unavailable
from serve_app.retrieval.filters import Reader
from serve_app.retrieval.ranking import Hit
from serve_app.retrieval.registry import Registry

log = logging.getLogger(__name__)

# That another version may be found after one has come into force: so long a search may
# not see the newer one yet.
_LATE_S = 10.0
_PATIENCE_S = 1.0  # with the registry, which takes some milliseconds


async def standing(
    registry: Registry, collection: str, reader: Reader, hits: Sequence[Hit]
) -> list[Hit]:
    """Those of documents that are there, for the reader, in the version in force."""
    rows = [hit.key.rsplit("-", 2) for hit in hits]
    keys = sorted({key for key, *_ in rows})
    try:
        async with asyncio.timeout(_PATIENCE_S):
            found = await registry.documents.standing(collection, keys)
    except (Unavailable, TimeoutError) as error:
        # Searches go on without the registry, for a while.
        log.warning("hits are not compared with the registry: %r", error)
        return list(hits)
    now = time.time()
    kept = []
    for hit, (key, version, _) in zip(hits, rows, strict=True):
        known = found.get(key)
        if known is None or not reader.may_read(known.allow):
            continue
        is_late = known.changed_at is not None and known.changed_at < now - _LATE_S
        if int(version) == known.version or not is_late:
            kept.append(hit)
    return kept
