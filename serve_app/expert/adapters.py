"""Adapters as releases, on any path that fsspec knows.

    <root>/<name>/<version>/manifest.json   beside the adapter's files; written last, so that a
                                            version is there whole or not at all
    <root>/<name>/current.json              which version serves, and how it came to

Versions are numbers that count up. One person at a time adds to a name or promotes it: object
stores have no lock to offer.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve_app.errors import InvalidRequest, NotFound, SettingsError, Unavailable
from serve_app.expert.admission import Candidate
from serve_app.storage import Store

MANIFEST = "manifest.json"
CURRENT = "current.json"
SETS = ("validation", "canary")  # a score's name is a set's, or begins with it: canary_format
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

Scores = Mapping[str, float]  # every one is better the higher it is
Json = dict[str, Any]


class Damaged(Unavailable):
    """The store answers, and what it holds is not what was released."""


class Registry:
    """The releases under a root.

    Args:
        root: A folder, or an fsspec URL such as `s3://bucket/adapters`.

    Raises:
        SettingsError: fsspec knows no such kind of store, or its package is not installed.

    Nothing is read before the first call. Every method raises `Unavailable` when the store cannot
    be reached, refuses the credentials, or has no such bucket.
    """

    def __init__(self, root: str) -> None:
        self._store = Store(root)

    def names(self) -> list[str]:
        return [name for name in self._store.folders() if self.versions(name)]

    def versions(self, name: str) -> list[int]:
        """Complete versions, ascending."""
        numbers = sorted(int(each) for each in self._store.folders(name) if each.isdigit())
        return [n for n in numbers if self._store.exists(f"{name}/{n}/{MANIFEST}")]

    def manifest(self, name: str, version: int) -> Json:
        """Raises `NotFound` when there is no such version."""
        found = self._read(f"{name}/{version}/{MANIFEST}")
        if found is None:
            versions = self.versions(name)
            if not versions:
                there = ", ".join(self.names()) or "none"
                raise NotFound(f"there is no adapter {name}; there are: {there}")
            there = ", ".join(map(str, versions))
            raise NotFound(f"{name} has no version {version}; there are: {there}")
        return found

    def current(self, name: str) -> Json:
        """`version` (None where none is promoted) and `history`, oldest first."""
        return self._read(f"{name}/{CURRENT}") or {"version": None, "history": []}

    def serving(self) -> dict[str, list[int]]:
        """Versions of each name that is promoted: the current one, then earlier ones.

        None of a name whose record is damaged: that is no word on what shall serve. It takes a
        listing and one small read for each name: cheap enough to look again every few seconds.
        """
        found: dict[str, list[int]] = {}
        for name in self._store.folders():
            try:
                state = self.current(name)
            except Damaged:
                found[name] = []
                continue
            if state["version"] is not None:
                earlier = [event["version"] for event in reversed(state["history"])]
                named = dict.fromkeys([state["version"], *earlier])
                found[name] = [each for each in named if each is not None]
        return found

    def contract(self, name: str, version: int) -> tuple[str, bytes] | None:
        """Name and content of the file that says what the output must look like, if there is one.

        Raises:
            NotFound: There is no such version.
            Damaged: The manifest names a file that is not there.
        """
        file = self.manifest(name, version)["contract"]
        if file is None:
            return None
        try:
            content = self._store.read(f"{name}/{version}/{file}")
        except FileNotFoundError:
            raise Damaged(f"{name} version {version}: its contract {file} is gone") from None
        return file, content

    def fetch(self, name: str, version: int, target: Path) -> Json:
        """Copy the files of a version into a folder, as its manifest lists them; returns that.

        Raises:
            NotFound: There is no such version.
            Damaged: A file is missing, is not what it was, or lies outside the version.
        """
        manifest = self.manifest(name, version)
        for file, wanted in manifest["files"].items():
            local = target / file
            if not local.resolve().is_relative_to(target.resolve()):
                raise Damaged(f"{name} version {version}: {file} lies outside of it")
            local.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._store.download(f"{name}/{version}/{file}", local)
            except FileNotFoundError:
                raise Damaged(f"{name} version {version}: {file} is missing") from None
            with local.open("rb") as copied:
                found = hashlib.file_digest(copied, "sha256").hexdigest()
            if found != wanted:
                raise Damaged(
                    f"{name} version {version}: {file} is not what was released "
                    f"(SHA-256 {found[:12]}, and {wanted[:12]} was)"
                )
        return manifest

    def add(
        self,
        name: str,
        candidate: Candidate,
        scores: Mapping[str, Scores],
        contract: tuple[str, bytes] | None = None,
    ) -> Json:
        """Copy an admitted folder in as the next version; it does not serve yet.

        Args:
            scores: `after`, and `before`, the base's own.
            contract: Name and content of a file that says what the output must look like.

        Returns:
            The manifest.
        """
        if not NAME.fullmatch(name):
            raise SettingsError(f"{name!r} is no name for an adapter: use a-z, 0-9, - and _")
        taken = [int(each) for each in self._store.folders(name) if each.isdigit()]
        version = max(taken, default=0) + 1
        recipe = candidate.recipe
        manifest = {
            "name": name,
            "version": version,
            "base": {
                "name": candidate.base.name,
                "weights_sha256": recipe["base"]["weights_sha256"],
            },
            "data": {part: (recipe.get(part) or {}).get("sha256") for part in ("train", "valid")},
            "recipe": recipe,
            "scores": {part: dict(values) for part, values in scores.items()},
            "licence": recipe.get("licence"),
            "rank": candidate.rank,
            "bytes": candidate.size,
            "files": candidate.files,
            "contract": contract[0] if contract else None,
            "date": _now(),
        }
        try:
            for file in candidate.files:
                self._store.upload(candidate.folder / file, f"{name}/{version}/{file}")
            if contract:
                self._store.write(f"{name}/{version}/{contract[0]}", contract[1])
            self._write(f"{name}/{version}/{MANIFEST}", manifest)
        except BaseException as error:
            with contextlib.suppress(Exception):
                self._store.remove(f"{name}/{version}")
            if isinstance(error, OSError | Unavailable):
                raise Unavailable(f"{name} version {version} was not added: {error}") from None
            raise
        return manifest

    def put(self, folder: Path, name: str) -> None:
        """Copy a name's folder in from another registry, its pointer last."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in sorted(paths, key=lambda each: each.name == CURRENT):
            self._store.upload(path, f"{name}/{path.relative_to(folder).as_posix()}")

    def promote(self, name: str, version: int, tolerance: float, *, dry_run: bool = False) -> Json:
        """Let a version serve, if no score falls against what serves now.

        Before the first promotion the base itself serves: its scores are the version's `before`.

        Returns:
            `from`, `to` and `scores`: `[now, then]` of each.

        Raises:
            InvalidRequest: A score falls by more than `tolerance`, or was not measured.
        """
        new, state = self.manifest(name, version), self.current(name)
        serving = state["version"]
        if serving == version:
            raise InvalidRequest(f"{name} version {version} serves already")
        then = new["scores"].get("after", {})
        now = self.manifest(name, serving)["scores"]["after"] if serving else {}
        compared = gate(
            f"{name} version {version}", now or new["scores"].get("before", {}), then, tolerance
        )
        if not dry_run:
            self._point(name, version, state, "promote")
        return {"name": name, "from": serving, "to": version, "scores": compared}

    def rollback(self, name: str, *, dry_run: bool = False) -> Json:
        """Let the version serve that did before the last promotion that still holds.

        Before the first promotion that was none: `to` is None then, and the base serves.

        Raises:
            NotFound: No promotion holds.
        """
        state = self.current(name)
        stack: list[int] = []
        for event in state["history"]:
            if event["action"] == "promote":
                stack.append(event["version"])
            else:
                stack.pop()
        if not stack:
            raise NotFound(f"no version of {name} is promoted; nothing was changed")
        before = stack[-2] if len(stack) > 1 else None
        if before is not None:
            self.manifest(name, before)
        if not dry_run:
            self._point(name, before, state, "rollback")
        return {"name": name, "from": stack[-1], "to": before}

    def _point(self, name: str, version: int | None, state: Json, action: str) -> None:
        event = {"action": action, "version": version, "date": _now()}
        pointer = {"version": version, "history": [*state["history"], event]}
        self._write(f"{name}/{CURRENT}", pointer)

    def _read(self, path: str) -> Json | None:
        try:
            found: Json = json.loads(self._store.read(path))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise Damaged(f"{self._store.root}/{path} is damaged: {error}") from None
        return found

    def _write(self, path: str, record: Json) -> None:
        self._store.write(path, (json.dumps(record, indent=2) + "\n").encode())


def gate(what: str, now: Scores, then: Scores, tolerance: float) -> dict[str, list[float]]:
    """Each score of `now` beside that of `then`.

    Raises:
        InvalidRequest: Some fall by more than `tolerance`, or some were not measured: on either
            set, of what serves or of what shall.
    """
    for whose, scores in (("it", then), ("what serves now", now)):
        lacking = [each for each in SETS if not any(name.startswith(each) for name in scores)]
        if lacking:
            raise InvalidRequest(
                f"{what} is not promoted: {whose} has no score on the {' and '.join(lacking)} "
                "set; add it again with --scores that has `before` and `after` of both"
            )
    if unmeasured := sorted(set(now) - set(then)):
        raise InvalidRequest(
            f"{what} was not measured on {', '.join(unmeasured)}, and what serves was"
        )
    fallen = [
        f"{name} falls by {now[name] - then[name]:.4g} ({now[name]:.4g} → {then[name]:.4g})"
        for name in sorted(now)
        if not then[name] >= now[name] - tolerance
    ]
    if fallen:
        raise InvalidRequest(
            f"{what} is not promoted: {'; '.join(fallen)}; the tolerance is {tolerance:g}"
        )
    return {name: [now[name], then[name]] for name in sorted(now)}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
