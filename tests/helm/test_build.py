"""`serve_app.app:build` takes what the chart renders, for every profile; no cluster is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_app import models
from serve_app.app import build
from serve_app.router.placement import Lanes
from serve_app.settings import Settings, from_args
from tests.helm.chart import PROFILES, ROOT, Json, arguments, of_profile, render


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pod's state after its init container: the checkout's models, if they are prepared."""
    folder = tmp_path_factory.mktemp("state")
    prepared = ROOT / ".trivium" / "models"
    if prepared.is_dir():
        (folder / "models").symlink_to(prepared)
    settings = Settings(state_dir=folder)
    for step in models.missing(settings):
        models.prepare(settings, step)
    return folder


def deployments(application: Any) -> dict[str, Any]:
    """The deployments of an application, by their names."""
    found: dict[str, Any] = {}
    waiting = [application._bound_deployment]
    while waiting:
        deployment = waiting.pop()
        found[deployment.name] = deployment
        bound = (each for each in deployment.init_args if hasattr(each, "_bound_deployment"))
        waiting.extend(each._bound_deployment for each in bound)
    return found


@pytest.mark.parametrize("profile", ["default", *PROFILES])
def test_the_application_is_built(
    profile: str, state: Path, clean_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "none")
    args = in_this_checkout(arguments(render(*of_profile(profile))), state)
    built = deployments(build(args))
    settings = from_args(args)
    assert built.keys() == {"Gateway", "Router", "Expert", "Retriever", "Frontier"}
    for name, section in (
        ("Gateway", settings.gateway),
        ("Router", settings.router),
        ("Expert", settings.expert),
        ("Retriever", settings.retrieval),
        ("Frontier", settings.frontier),
    ):
        scaling = built[name]._deployment_config.autoscaling_config
        assert scaling.min_replicas == section.scaling.min_replicas, name
        assert scaling.max_replicas == section.scaling.max_replicas, name
    routing = built["Router"]._deployment_config.request_router_config
    assert routing.get_request_router_class() is Lanes
    bundles = built["Expert"]._replica_config.placement_group_bundles
    if settings.expert.accelerator == "gpu":
        # One for each GPU, and no CPU in any: GPU pods offer none.
        assert bundles == [{"CPU": 0, "GPU": 1}, {"GPU": 1}]
    else:
        assert bundles == [{"CPU": 1}]


def in_this_checkout(args: Json, state: Path) -> Json:
    """The same arguments with the image's folder and the pod's volume where they are here."""
    places = {"/var/lib/trivium": str(state), "/opt/trivium": str(ROOT)}

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: moved(each) for key, each in value.items()}
        if isinstance(value, str):
            for there, here in places.items():
                value = value.replace(there, here)
        return value

    found: Json = moved(args)
    return found
