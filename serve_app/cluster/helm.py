"""The `helm` binary, which alone manages a release: what it renders, applies, keeps and takes back.

Helm 4 and 3.18 name some flags differently. Every call has a deadline.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from serve_app.errors import NotFound, SettingsError, Unavailable

_QUERY_S = 60.0
_GOOD = ("deployed", "superseded")


@dataclass(frozen=True)
class Source:
    """What is installed: a chart, and the values for it.

    Attributes:
        chart: Folder, archive or `oci://` address.
        version: Of a chart that has an address; None takes the newest.
        settings: `key=value`, as of `--set`.
    """

    chart: str
    version: str | None = None
    values: Sequence[Path] = ()
    settings: Sequence[str] = ()

    @property
    def arguments(self) -> list[str]:
        """As Helm takes them, after the release's name."""
        version = [f"--version={self.version}"] if self.version else []
        files = [f"--values={path}" for path in self.values]
        return [self.chart, *version, *files, *(f"--set={each}" for each in self.settings)]


class Revision(NamedTuple):
    """One of a release, as Helm keeps it."""

    number: int
    status: str
    description: str


class Helm:
    """Helm, for one release of one namespace."""

    def __init__(
        self, release: str, namespace: str, kubeconfig: Path | None, context: str | None
    ) -> None:
        """Raises: SettingsError: Helm is not on PATH, or older than what the chart is for."""
        program = shutil.which("helm")
        if program is None:
            raise SettingsError(
                "helm is not on PATH: install it (https://helm.sh/docs/intro/install)"
            )
        self.release = release
        self._program = program
        self._namespace = namespace
        self._where = [f"--namespace={namespace}"]
        self._where += [f"--kubeconfig={kubeconfig}"] if kubeconfig else []
        self._where += [f"--kube-context={context}"] if context else []
        told = self._ask("version", "--template={{.Version}}")
        found = re.match(r"v(\d+)\.(\d+)", told)
        if found is None or (int(found[1]), int(found[2])) < (3, 18):
            raise SettingsError(f"helm is {told.strip()}: 3.18 or newer is needed")
        self.major = int(found[1])

    def render(self, source: Source, server: tuple[str, Sequence[str]]) -> str:
        """The chart's manifests for the very API server that they go to, hooks left out.

        Without any values Helm takes those of the release that is there, and so does this.

        Args:
            server: Its version, and every `group/version` that it serves.

        Raises:
            SettingsError: The chart refuses the values; in Helm's words.
        """
        capabilities = [f"--kube-version={server[0]}", *(f"--api-versions={e}" for e in server[1])]
        arguments = [self.release, *source.arguments, "--no-hooks", *capabilities]
        given = "{}"
        if not source.values and not source.settings:
            given = self._of_release("get", "values", self.release, "--output=json") or "{}"
            arguments.append("--values=-")
        try:
            return self._ask("template", *arguments, given=given)
        except Unavailable as error:
            raise SettingsError(f"{source.chart} cannot be rendered: {error.message}") from None

    def revisions(self) -> list[Revision]:
        """Every one that Helm keeps, oldest first; none where there is no release."""
        told = json.loads(self._of_release("history", self.release, "--output=json") or "[]")
        return [Revision(e["revision"], e["status"], e.get("description", "")) for e in told]

    def require(self) -> None:
        """Raises: NotFound: There is no release."""
        if not self.revisions():
            raise NotFound(
                f"there is no release {self.release} in namespace {self._namespace} to upgrade: "
                "use trivium k8s install"
            )

    def before(self, number: int | None) -> Revision:
        """The revision of that number, or else the last good one before the current.

        Raises:
            NotFound: There is none; says which there are.
        """
        kept = self.revisions()
        for each in reversed(kept[:-1] if number is None else kept):
            if each.number == number or (number is None and each.status in _GOOD):
                return each
        names = ", ".join(f"{each.number} ({each.status})" for each in kept) or "none"
        wanted = "earlier revision to go back to" if number is None else f"revision {number}"
        raise NotFound(f"release {self.release} has no {wanted}; it has: {names}")

    def manifest(self, revision: int | None = None) -> str:
        """What a revision consists of; of the current one by default. Empty without a release."""
        which = [f"--revision={revision}"] if revision else []
        return self._of_release("get", "manifest", self.release, *which)

    def upgrade(
        self, source: Source, timeout_s: float, install: bool, force: bool, go_back: bool
    ) -> subprocess.Popen[str]:
        """Begin an upgrade; with `install` also of what is not there yet."""
        flags = ["--install"] if install else []
        if go_back:
            flags.append("--rollback-on-failure" if self.major > 3 else "--atomic")
        arguments = [self.release, *source.arguments, *flags, *self._applying(timeout_s, force)]
        return self._begin("upgrade", *arguments)

    def rollback(self, revision: int, timeout_s: float) -> subprocess.Popen[str]:
        """Begin a rollback; fields that others took are taken back."""
        return self._begin(
            "rollback", self.release, str(revision), *self._applying(timeout_s, force=True)
        )

    def takes(self, force: bool) -> bool:
        """Whether fields of others are taken: Helm 3 patches from the client and asks nobody."""
        return force or self.major < 4

    def _applying(self, timeout_s: float, force: bool) -> list[str]:
        forced = ["--force-conflicts"] if force and self.major > 3 else []
        return ["--wait", f"--timeout={timeout_s:.0f}s", *forced]

    def _begin(self, *arguments: str) -> subprocess.Popen[str]:
        # In a session of its own: Ctrl-C reaches this process, which passes it on once.
        return subprocess.Popen(
            [self._program, *arguments, *self._where],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def _of_release(self, *arguments: str) -> str:
        try:
            return self._ask(*arguments)
        except NotFound:
            return ""

    def _ask(self, *arguments: str, given: str = "") -> str:
        try:
            done = subprocess.run(
                [self._program, *arguments, *self._where],
                input=given,
                capture_output=True,
                text=True,
                check=False,
                timeout=_QUERY_S,
            )
        except subprocess.TimeoutExpired:
            raise Unavailable(f"helm {arguments[0]} did not end within {_QUERY_S:.0f} s") from None
        if done.returncode:
            told = done.stderr.strip().removeprefix("Error: ")
            raise (NotFound if "release: not found" in told else Unavailable)(told)
        return done.stdout
