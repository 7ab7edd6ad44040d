"""The chart as kustomize's base and overlays, for those who do not use Helm.

`python -m tools.chart_kustomize FOLDER` writes them, as a release attaches them.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tools.chart_binaries import ROOT, helm

CHART = ROOT / "helm" / "trivium"
PROFILES = ("kind", "gpu", "production")
NAME = "trivium"
Json = dict[str, Any]
_HELMS_OWN = ("helm.sh/chart", "helm.sh/resource-policy", "app.kubernetes.io/managed-by")


def manifests(*arguments: str) -> list[Json]:
    """What Helm renders, without what only Helm reads."""
    command = [str(helm()), "template", NAME, str(CHART), "--no-hooks", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise SystemExit(f"helm template failed: {done.stderr}")
    found = [each for each in yaml.safe_load_all(done.stdout) if each]
    for each in found:
        for kind in ("labels", "annotations"):
            notes = each["metadata"].get(kind, {})
            for name in _HELMS_OWN:
                notes.pop(name, None)
            if not notes:
                each["metadata"].pop(kind, None)
    return sorted(found, key=_identity)


def _identity(manifest: Json) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def changes(old: Any, new: Any, path: str = "") -> list[Json]:
    """JSON Patch from one document to another; a list is replaced as a whole."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [{"op": "replace", "path": path, "value": new}]
    found: list[Json] = []
    for key in sorted(old.keys() | new.keys()):
        where = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
        if key not in new:
            found.append({"op": "remove", "path": where})
        elif key not in old:
            found.append({"op": "add", "path": where, "value": new[key]})
        else:
            found += changes(old[key], new[key], where)
    return found


def profile_arguments(profile: str) -> list[str]:
    """Helm's arguments for a profile. Dashboards stay what they are: files of the chart."""
    values = str(CHART / f"values-{profile}.yaml")
    return ["-f", values, "--set", "monitoring.dashboards.enabled=false"]


def kustomizations() -> dict[str, str]:
    """Files by path: the default values as the base, and each profile as what differs."""
    base = {_identity(each): each for each in manifests()}
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    files = {
        "base/trivium.yaml": _dump(*base.values()),
        "base/kustomization.yaml": _dump({**head, "resources": ["trivium.yaml"]}),
    }
    for profile in PROFILES:
        wanted = {_identity(each): each for each in manifests(*profile_arguments(profile))}
        more = [each for name, each in wanted.items() if name not in base]
        patches: list[Json] = []
        for (kind, name), old in base.items():
            target = {"kind": kind, "name": name}
            if (kind, name) not in wanted:
                gone = {"apiVersion": old["apiVersion"], "kind": kind, "metadata": {"name": name}}
                patches.append({"patch": _dump({**gone, "$patch": "delete"})})
            elif steps := changes(old, wanted[kind, name]):
                patches.append({"target": target, "patch": _dump(steps)})
        own = {**head, "resources": ["../../base"], "patches": patches}
        if more:
            own["resources"] = ["../../base", "more.yaml"]
            files[f"overlays/{profile}/more.yaml"] = _dump(*more)
        files[f"overlays/{profile}/kustomization.yaml"] = _dump(own)
    return {name: f"# Rendered from helm/trivium.\n{text}" for name, text in files.items()}


def write(folder: Path) -> None:
    """All of them, into a folder that need not be there."""
    for name, text in kustomizations().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


class _Dumper(yaml.SafeDumper):
    """Texts of more than one line stay readable, and nothing is an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, data: str) -> yaml.ScalarNode:
    style = "|" if "\n" in data else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _text)


def _dump(*documents: Any) -> str:
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
