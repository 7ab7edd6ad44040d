"""What was deployed before, kept in the cluster: one Secret per revision, to go back to."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from serve_app.cluster.kube import Kube, Object, Ref
from serve_app.cluster.refusals import Conflict
from serve_app.errors import NotFound, Unavailable

State = Literal["deploying", "deployed", "superseded", "failed"]

_KEPT = 10
_OWNER, _RELEASE = "trivium.dev/owner", "trivium.dev/release"
_NUMBER, _STATE = "trivium.dev/revision", "trivium.dev/state"
_NOTE = "trivium.dev/note"


@dataclass(frozen=True)
class Revision:
    """One deployment of a release."""

    number: int
    state: str
    note: str
    made_at: str
    objects: tuple[Object, ...]


class Revisions:
    """The revisions of one release, oldest first."""

    def __init__(self, kube: Kube, release: str) -> None:
        self._kube = kube
        self._release = release

    def all(self) -> list[Revision]:
        """Every revision that is kept."""
        labels = f"{_OWNER}=trivium,{_RELEASE}={self._release}"
        found = [_read(each) for each in self._kube.find("v1", "Secret", labels)]
        return sorted(found, key=lambda each: each.number)

    def before(self, number: int | None) -> Revision:
        """The revision of that number, or else the last good one before the current.

        Raises:
            NotFound: There is none; says which there are.
        """
        kept = self.all()
        if number is None:
            good = [e for e in kept[:-1] if e.state in ("deployed", "superseded")]
            if good:
                return good[-1]
            raise NotFound(f"{self._release} has no earlier revision to go back to")
        for each in kept:
            if each.number == number:
                return each
        numbers = ", ".join(str(each.number) for each in kept) or "none"
        raise NotFound(f"{self._release} has no revision {number}; it has: {numbers}")

    def begin(self, objects: Sequence[Object], note: str) -> Revision:
        """Write down what is about to be applied.

        Raises:
            Unavailable: Somebody else deploys this release at this moment.
        """
        kept = self.all()
        number = kept[-1].number + 1 if kept else 1
        made = datetime.now(UTC).isoformat(timespec="seconds")
        revision = Revision(number, "deploying", note, made, tuple(objects))
        try:
            self._kube.create(self._secret(revision))
        except Conflict:
            raise Unavailable(
                f"somebody else deploys {self._release} at this moment (revision {number}): "
                "see `trivium status`, then try again"
            ) from None
        for old in kept[: max(0, len(kept) + 1 - _KEPT)]:
            self._kube.delete(self._ref(old.number))
        return revision

    def finish(self, revision: Revision, state: State) -> None:
        """Write down how it went; one that succeeded supersedes those before it."""
        if state == "deployed":
            for old in self.all():
                if old.state == "deployed":
                    self._kube.label(self._ref(old.number), {_STATE: "superseded"})
        self._kube.label(self._ref(revision.number), {_STATE: state})

    def _ref(self, number: int) -> Ref:
        name = f"trivium.v1.{self._release}.{number}"
        return Ref("v1", "Secret", self._kube.namespace, name)

    def _secret(self, revision: Revision) -> Object:
        packed = gzip.compress(json.dumps(revision.objects).encode())
        ref = self._ref(revision.number)
        return {
            "apiVersion": ref.api_version,
            "kind": ref.kind,
            "type": "trivium.dev/revision.v1",
            "metadata": {
                "name": ref.name,
                "namespace": ref.namespace,
                "labels": {
                    _OWNER: "trivium",
                    _RELEASE: self._release,
                    _NUMBER: str(revision.number),
                    _STATE: revision.state,
                },
                "annotations": {_NOTE: revision.note, "trivium.dev/made-at": revision.made_at},
            },
            "data": {"objects": base64.b64encode(packed).decode()},
        }


def _read(secret: Object) -> Revision:
    meta = secret["metadata"]
    packed = base64.b64decode(secret["data"]["objects"])
    return Revision(
        number=int(meta["labels"][_NUMBER]),
        state=meta["labels"][_STATE],
        note=meta["annotations"][_NOTE],
        made_at=meta["annotations"]["trivium.dev/made-at"],
        objects=tuple(json.loads(gzip.decompress(packed))),
    )
