"""A release's canary replayed on a stack, which is a small HTTP server here; and kept answers."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from serve_app.expert.adapters import Registry
from tests.cli.conftest import Run
from tests.expert.conftest import row, save
from tests.expert.releases import release

pytestmark = pytest.mark.usefixtures("clean_environment")

CONTRACT = "kind: regex\npattern: 'Total: (?P<total>[0-9]+)'\n"
ROWS = [row(f"We sold {n}.", f"Total: {n}") for n in range(20, 30)]


class Stack(BaseHTTPRequestHandler):
    """Answers `Total: n`, or what `broken` says."""

    broken: ClassVar[str | None] = None
    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:  # the name that http.server calls
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append(body)
        number = body["messages"][-1]["content"].split()[-1].rstrip(".")
        message = {"role": "assistant", "content": self.broken or f"Total: {number}"}
        answer = {
            "choices": [{"message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 4},
        }
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Stack, "asked", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), Stack) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    for name in ("config.json", "tokenizer_config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def config(tmp_path: Path, base: Path) -> Path:
    root = tmp_path / "adapters"
    folder = release(root, "house", 1, contract=CONTRACT)
    save(folder / "canary.jsonl", ROWS)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["canary.jsonl"] = hashlib.sha256(
        (folder / "canary.jsonl").read_bytes()
    ).hexdigest()
    scores = {"validation": 1.0, "canary_exact": 1.0, "canary_adherence": 1.0}
    manifest["scores"] = {"before": {"validation": 0.0, "canary_exact": 0.0}, "after": scores}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    Registry(str(root)).promote("house", 1, tolerance=0.0)
    path = tmp_path / "settings.yaml"
    path.write_text(f"expert: {{model: mine, model_source: {base}, adapters: {root}}}\n")
    return path


def test_a_canary_is_replayed_noted_and_heard(
    run: Run, config: Path, base: Path, stack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The base is where the stack is: here there is none, and nobody asks a hub for it.
    config.write_text(config.read_text().replace(str(base), "nobody/nothing"))
    command = ("adapters", "canary", "house", "--url", stack, "-c", str(config), "--json")
    first = run(*command)
    assert first.code == 0, first.err
    record = json.loads(first.out)
    assert record["scores"] == dict.fromkeys(("adherence", "faithfulness", "exact", "fields"), 1.0)
    assert {body["model"] for body in Stack.asked} == {"trivium/expert:house@1"}
    unchanged = json.loads(run(*command, "--if-changed").out)
    assert not unchanged["replayed"]
    assert len(Stack.asked) == len(ROWS)

    config.write_text(config.read_text().replace("model: mine", "model: mine, accelerator: gpu"))
    monkeypatch.setattr(Stack, "broken", "About 7 of them.")
    metrics, plot = tmp_path / "canary.prom", tmp_path / "canary.png"
    worse = run(*command, "--if-changed", "--metrics", str(metrics), "--plot", str(plot))
    assert worse.code == 1
    record = json.loads(worse.out)
    assert record["changed"] == ["engine"]
    assert record["scores"]["adherence"] == record["scores"]["faithfulness"] == 0.0
    assert any("adherence 0.000 is 1.000 below" in alert for alert in record["alerts"])
    assert 'trivium_canary_score{adapter="house",score="exact",version="1"} 0.0' in (
        metrics.read_text()
    )
    assert plot.stat().st_size > 1000
    history = tmp_path / "adapters" / "house" / "canary-history.jsonl"
    assert len(history.read_text().splitlines()) == 2


def test_an_unreachable_stack_is_one_line_and_leaves_no_record(
    run: Run, config: Path, tmp_path: Path
) -> None:
    down = run("adapters", "canary", "house", "--url", "http://127.0.0.1:1", "-c", str(config))
    assert down.code == 1
    assert "no answer from http://127.0.0.1:1" in down.err
    assert not (tmp_path / "adapters" / "house" / "canary-history.jsonl").exists()


def test_what_is_answered_already_is_scored_without_an_engine(
    run: Run, config: Path, tmp_path: Path
) -> None:
    data, contract = save(tmp_path / "rows.jsonl", ROWS), tmp_path / "contract.yaml"
    contract.write_text(CONTRACT)
    answers = tmp_path / "answers.jsonl"
    lines = [
        {"way": "base", "questions": hashlib.sha256(data.read_bytes()).hexdigest()[:12], "id": n,
         "text": each["messages"][-1]["content"] if n > 2 else "no", "finish_reason": "stop",
         "prompt_tokens": 10, "completion_tokens": 5, "seconds": 0.5}
        for n, each in enumerate(ROWS, start=1)
    ]  # fmt: skip
    save(answers, lines)
    scores = tmp_path / "scores.json"
    done = run("evaluate", "expert", "-d", str(data), "--contract", str(contract), "--answers",
               str(answers), "--no-structured", "--scores", str(scores), "-c", str(config),
               "--json")  # fmt: skip
    assert done.code == 0, done.err
    way = json.loads(done.out)["ways"]["base"]
    assert way["scores"]["exact"][0] == way["scores"]["adherence"][0] == 0.8
    assert way["prompt_tokens"] == 100
    assert way["seconds"] == 5.0
    assert json.loads(scores.read_text())["before"]["validation_exact"] == 0.8
    assert json.loads(answers.read_text().splitlines()[0])["judged"]["violations"]
