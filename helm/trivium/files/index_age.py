"""How old is the newest live evidence of a collection? Fails when it is older than it may be."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx


def newest(listed: list[dict[str, str | None]]) -> datetime | None:
    """The latest moment that any document says it was true at; `None` if none says."""
    moments = [datetime.fromisoformat(each["as_of"]) for each in listed if each["as_of"]]
    return max((m if m.tzinfo else m.replace(tzinfo=UTC) for m in moments), default=None)


def documents(client: httpx.Client, url: str) -> Iterator[dict[str, str | None]]:
    """All of a collection, page by page."""
    page: dict[str, Any] = {"has_more": True, "last_id": ""}
    while page["has_more"]:
        answer = client.get(url, params={"limit": 1000, "after": page["last_id"]})
        page = answer.raise_for_status().json()
        yield from page["data"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collection", default="default")
    parser.add_argument("--max-age-s", type=float, required=True)
    options = parser.parse_args()
    key = os.environ.get("TRIVIUM_API_KEY")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    url = f"{os.environ['TRIVIUM_URL']}/v1/collections/{options.collection}/documents"
    try:
        with httpx.Client(headers=headers, timeout=60) as client:
            moment = newest(list(documents(client, url)))
    except httpx.HTTPError as error:
        sys.exit(f"the documents of {options.collection} cannot be listed: {error}")
    if moment is None:
        sys.exit(f"{options.collection} has no document with an as_of: nothing live was ingested")
    age = (datetime.now(UTC) - moment).total_seconds()
    print(f"{options.collection}: newest live evidence is {age:.0f} s old ({moment.isoformat()})")
    if age > options.max_age_s:
        sys.exit(f"that is older than {options.max_age_s:.0f} s: is the feed running?")


if __name__ == "__main__":
    main()
