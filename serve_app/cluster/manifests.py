"""Rendered manifests as objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve_app.cluster.kube import Object
from serve_app.errors import SettingsError
from serve_app.plain_data import yaml_texts


def read(text: str, source: str) -> list[Object]:
    """The objects of a rendered file, as they come.

    Raises:
        SettingsError: It is no YAML, or holds something that is no Kubernetes object.
    """
    objects: list[Object] = [each for each in yaml_texts(text, source) if each]
    for number, each in enumerate(objects, 1):
        if not _is_object(each):
            raise SettingsError(
                f"{source}: object {number} has no apiVersion, kind and metadata.name"
            )
    return objects


def ray_service(objects: Sequence[Object]) -> Object | None:
    """The one that serves, or None where there is none."""
    return next((each for each in objects if each["kind"] == "RayService"), None)


def _is_object(thing: Any) -> bool:
    if not isinstance(thing, dict) or not isinstance(thing.get("metadata"), dict):
        return False
    return bool(thing.get("apiVersion") and thing.get("kind") and thing["metadata"].get("name"))
