"""The commands, as a person and as a script use them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.conftest import Stack


def test_ask_prints_the_answer_and_then_its_price(stack: Stack) -> None:
    done = stack.cli("ask", "How many days do customers have to return unused goods?")
    assert done.returncode == 0, done.stderr
    assert "60 days" in done.stdout
    assert "knowledge" in done.stderr
    assert "Returns Policy" in done.stderr
    assert "RAG-only" in done.stderr


def test_ask_reads_standard_input_and_prints_json(stack: Stack) -> None:
    done = stack.cli("ask", "--json", "--model", "trivium/expert", "--max-tokens", "4", stdin="Hi")
    answer = json.loads(done.stdout)
    assert answer["route"] == "expert"
    assert answer["usage"]["completion_tokens"] <= 4


def test_route_explains_itself(stack: Stack) -> None:
    made = json.loads(stack.cli("route", "--json", "How many orders in the last hour?").stdout)
    assert made["route"] == "knowledge"
    assert made["volatility"] > 0.5
    assert sum(made["scores"].values()) > 0.999
    assert "How many" not in made["reason"]


def test_ingested_documents_are_found_at_once(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "moose.md").write_text("# Moose\n\nThe company moose is called Agnar.\n")
    done = stack.cli("ingest", str(tmp_path), "--collection", "animals", "--json")
    assert json.loads(done.stdout)["documents"] == 1, done.stderr
    for mode in ("dense", "sparse", "hybrid"):
        args = ("--collection", "animals", "--mode", mode, "--json")
        hits = json.loads(stack.cli("search", "What is the moose called?", *args).stdout)
        assert hits[0]["document_id"] == "moose"
        assert "Agnar" in hits[0]["text"]


def test_a_bad_file_is_named_and_the_rest_ingested(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("Elk live in the north.")
    (tmp_path / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    done = stack.cli("ingest", str(tmp_path), "--collection", "animals")
    assert done.returncode == 1
    assert "latin.txt" in done.stderr
    assert "1 documents" in done.stdout


def test_mistakes_take_one_line(stack: Stack) -> None:
    for args, hint in (
        (("ask", " "), "nothing was asked"),
        (("ask", "hello", "--model", "gpt-9"), "trivium/expert"),
        (("search", "x", "--collection", "nowhere"), "PUT a document"),
        (("ask", "hello", "--url", "http://127.0.0.1:9"), "trivium up"),
        (("up", "--port", stack.url.rpartition(":")[2]), "already running"),
    ):
        done = stack.cli(*args)
        assert done.returncode in (1, 2), args
        assert hint in done.stderr, (args, done.stderr)
        assert "Traceback" not in done.stderr
