"""Where models are looked for, and what happens when two make the same one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serve_app import models
from serve_app.settings import Settings


def test_what_an_image_has_is_not_made_again(tmp_path: Path, clean_environment: None) -> None:
    image = tmp_path / "image"
    settings = Settings(state_dir=tmp_path / "state", shipped_models=image)
    assert models.missing(settings) == ["base model", "router encoder"]
    for folder in (image / models.DEMO_MODEL, image / models.router_encoder(settings).name):
        folder.mkdir(parents=True)
    assert models.missing(settings) == []
    assert models.base_model(settings) == str(image / models.DEMO_MODEL)
    assert models.router_encoder(settings).parent == image


def test_two_that_make_the_same_model_both_have_it(
    tmp_path: Path, clean_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(2, timeout=30)

    def export(source: Path, target: Path) -> None:
        (target / "model.onnx").write_text("whole")
        together.wait()

    monkeypatch.setattr("serve_app.router.export.export", export)
    settings = Settings(state_dir=tmp_path)
    with ThreadPoolExecutor(2) as pool:
        for made in [pool.submit(models.prepare, settings, "router encoder") for _ in range(2)]:
            made.result()
    folder = models.router_encoder(settings)
    assert (folder / "model.onnx").read_text() == "whole"
    assert [each.name for each in settings.models_dir.iterdir()] == [folder.name]


def test_whoever_reads_an_image_may_read_its_models(
    tmp_path: Path, clean_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(source: Path, target: Path) -> None:
        (target / "model.onnx").touch(mode=0o600)

    monkeypatch.setattr("serve_app.router.export.export", export)
    settings = Settings(state_dir=tmp_path)
    models.prepare(settings, "router encoder")
    folder = models.router_encoder(settings)
    assert folder.stat().st_mode & 0o055 == 0o055
    assert (folder / "model.onnx").stat().st_mode & 0o044 == 0o044
