"""The commands against a real gateway over HTTP, with plain objects behind it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serve_app import __version__
from serve_app.domain import Delta, Route
from serve_app.errors import Unavailable
from tests.cli.conftest import Run, Serve
from tests.fixtures import FixedKnowledge, FixedRouter, House, ScriptedModel, chunk, decision

pytestmark = pytest.mark.usefixtures("clean_environment")


def test_version_and_help(run: Run) -> None:
    assert run("--version").out.strip() == f"trivium {__version__}"
    shown = run("--help")
    assert shown.code == 0
    for command in ("up", "down", "ask", "route", "ingest", "search"):
        assert command in shown.out


def test_unknown_command_is_wrong_usage(run: Run) -> None:
    assert run("upp").code == 2


def test_question_is_answered_with_road_cost_and_sources(run: Run, serve: Serve) -> None:
    source = chunk("Goods may be returned within 30 days.", "returns", title="Returns [v2]")
    house = House(
        router=FixedRouter(decision(Route.KNOWLEDGE)),
        knowledge=FixedKnowledge([source]),
        expert=ScriptedModel("Goods may be returned within 30 days."),
    )
    outcome = run("ask", "What is the return window?", "--url", serve(house))
    assert outcome.code == 0
    assert outcome.out == "Goods may be returned within 30 days.\n"
    assert "knowledge" in outcome.err
    assert "Returns [v2]" in outcome.err
    assert "RAG-only" in outcome.err


def test_answer_for_machines_is_one_json_object(run: Run, serve: Serve) -> None:
    house = House(expert=ScriptedModel(Unavailable("died")))
    outcome = run("ask", "hi", "--json", "--url", serve(house))
    answer = json.loads(outcome.out)
    assert answer["answer"] == "Deep thought."
    assert answer["degraded"] == "expert-service-unavailable"
    assert answer["usage"]["total_tokens"] == 12


def test_refusal_is_shown_and_so_is_what_was_adapted(run: Run, serve: Serve) -> None:
    declines = ScriptedModel(Delta(refusal="I can't help."))
    url = serve(House(frontier=declines))
    arguments = ("ask", "hi", "--model", "trivium/frontier", "--max-tokens", "99999", "--url", url)
    shown = run(*arguments)
    assert shown.out == "I can't help.\n"
    assert "adapted: max_completion_tokens" in shown.err
    told = json.loads(run(*arguments, "--json").out)
    assert (told["answer"], told["refusal"]) == ("", "I can't help.")


def test_failure_inside_the_stream_is_told(run: Run, serve: Serve) -> None:
    house = House(expert=ScriptedModel("Hel", Unavailable("the expert road is restarting")))
    outcome = run("ask", "hi", "--url", serve(house))
    assert outcome.code == 1
    assert "the expert road is restarting" in outcome.err


@pytest.mark.parametrize("question", ["", "  \n"])
def test_nothing_asked_is_wrong_usage(run: Run, question: str) -> None:
    outcome = run("ask", question)
    assert outcome.code == 2
    assert "nothing was asked" in outcome.err


def test_wrong_model_is_wrong_usage_and_lists_those_that_exist(run: Run, serve: Serve) -> None:
    outcome = run("ask", "hi", "--model", "gpt", "--url", serve(House()))
    assert outcome.code == 2
    assert "trivium/auto" in outcome.err


@pytest.mark.parametrize("command", [["ask", "hi"], ["route", "hi"], ["search", "hi"]])
def test_nobody_there_names_the_address_and_what_to_do(run: Run, command: list[str]) -> None:
    outcome = run(*command, "--url", "http://127.0.0.1:1")
    assert outcome.code == 1
    assert "http://127.0.0.1:1" in outcome.err
    assert "trivium up" in outcome.err


@pytest.mark.parametrize("url", ["nonsense", "127.0.0.1:8000", "http://[::bad", "ftp://x"])
def test_address_that_is_none_is_told_without_a_traceback(run: Run, url: str) -> None:
    outcome = run("route", "hi", "--url", url)
    assert outcome.code in (1, 2)
    assert "--url" in outcome.err


def test_road_is_shown(run: Run, serve: Serve) -> None:
    url = serve(House())
    assert "expert: because" in run("route", "hi", "--url", url).out
    assert json.loads(run("route", "hi", "--json", "--url", url).out)["route"] == "expert"


def test_folder_is_ingested_and_bad_files_are_named(run: Run, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("# Good\nText.", "utf-8")
    (tmp_path / "bad.md").write_bytes(b"\xff")
    house = House()
    outcome = run("ingest", str(tmp_path), "--json", "--url", serve(house))
    report = json.loads(outcome.out)
    assert outcome.code == 1
    assert (report["documents"], len(report["failed"])) == (1, 1)
    assert "bad.md" in report["failed"][0]
    assert [document.id for document in house.knowledge.ingested] == ["good"]


def test_dry_run_sends_nothing(run: Run, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("Text.", "utf-8")
    house = House()
    outcome = run("ingest", str(tmp_path), "--dry-run", "--url", serve(house))
    assert outcome.code == 0
    assert "would be sent" in outcome.out
    assert house.knowledge.ingested == []


def test_missing_file_is_wrong_usage(run: Run) -> None:
    outcome = run("ingest", "/no/[/such]/file.md")
    assert outcome.code == 2
    assert "/no/[/such]/file.md" in outcome.err


def test_hits_are_shown_as_they_are_written(run: Run, serve: Serve) -> None:
    hit = chunk("See [draft] and [/b] and [bold]this[/bold].", "doc[1]", heading="[red]")
    url = serve(House(knowledge=FixedKnowledge([hit])))
    outcome = run("search", "x", "--url", url)
    assert outcome.code == 0
    assert hit.text in outcome.out
    assert "doc[1]" in outcome.out
    assert json.loads(run("search", "x", "--json", "--url", url).out)[0]["text"] == hit.text


def test_wrong_settings_file_is_wrong_usage(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("gatway: {}\n", "utf-8")
    outcome = run("down", "--config", str(file))
    assert outcome.code == 2
    assert f"{file}:1: gatway: unknown key" in outcome.err


def test_nothing_to_stop_is_no_failure(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIVIUM_STATE_DIR", str(tmp_path))
    outcome = run("down")
    assert (outcome.code, outcome.out.strip()) == (0, "nothing is running here")
