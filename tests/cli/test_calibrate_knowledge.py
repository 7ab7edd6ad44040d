"""`trivium calibrate knowledge`: a gateway's searches, and what their cosines mean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from serve_app.domain import Chunk, RequestContext, SearchQuery
from serve_app.orchestration.calibration import load_calibrations
from serve_app.settings import BUNDLED
from tests.cli.conftest import Run, Serve
from tests.fixtures import FixedKnowledge, House, chunk

pytestmark = pytest.mark.usefixtures("clean_environment")

TOWNS = "Oslo Bergen Lima Cusco Tokyo Osaka Paris Lyon Rome Milan".split()
NEAR, FAR = 0.7, 0.2


class Towns(FixedKnowledge):
    """Of each town a chunk, which is nearest to a question about it."""

    async def search(
        self, context: RequestContext, collection: str, query: SearchQuery
    ) -> list[Chunk]:
        return [
            chunk(
                f"In {town} the shop opens at {8 + at % 4}:00.",
                town.lower(),
                relevance=(NEAR if town in query.text else FAR) + at / 100,
            )
            for at, town in enumerate(TOWNS)
            if town in query.text or at < 2
        ]


def questions(path: Path, count: int) -> str:
    rows = []
    for number in range(count):
        town = TOWNS[number % len(TOWNS)]
        known = number % 3
        rows.append(
            {
                "query": f"When does the shop in {town} open?" if known else "Who owns the shop?",
                "relevant": [town.lower()] if known else [],
                "answers": [f"{8 + number % len(TOWNS) % 4}:00"] if known else [],
            }
        )
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_cosines_are_told_apart(run: Run, serve: Serve, tmp_path: Path) -> None:
    output = tmp_path / "own.yaml"
    asked = questions(tmp_path / "q.jsonl", 120)
    done = run(
        *("calibrate", "knowledge", "-q", asked, "-o", str(output), "--json"),
        *("--url", serve(House(knowledge=Towns()))),
    )
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert (told["questions"], told["model"]) == (120, BUNDLED)
    assert told["quoted_right"] > 0.8
    read = load_calibrations(output)[BUNDLED]
    assert read.chunk(NEAR) > 0.5 > read.chunk(FAR)
    assert yaml.safe_load(output.read_text())[BUNDLED]["learned_from"] == {"q.jsonl": 120}


def test_too_little_is_said_and_nothing_written(run: Run, serve: Serve, tmp_path: Path) -> None:
    output = tmp_path / "own.yaml"
    asked = questions(tmp_path / "q.jsonl", 9)
    url = serve(House(knowledge=Towns()))
    done = run("calibrate", "knowledge", "-q", asked, "-o", str(output), "--url", url)
    assert done.code == 2
    assert "at least 30 must" in done.err
    assert not output.exists()
    done = run("calibrate", "knowledge", "-q", asked, "-o", str(tmp_path), "--url", url)
    assert done.code == 2
    assert "name a file" in done.err
