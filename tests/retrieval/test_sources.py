"""What is listed of folders, globs and buckets."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from serve_app.errors import UnprocessableDocument
from serve_app.retrieval import sources
from serve_app.retrieval.sources import discover


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("hr/README.md", "it/README.md", "it/deep/a.txt", "it/.hidden.md", "b.bin"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    return tmp_path


def urls(root: Path, *arguments: str) -> list[str]:
    return [os.path.relpath(each.url, root) for each in discover(arguments)]


def test_folder_is_listed_whole_in_an_order_of_its_own(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_LOOKED_AT", 1)
    found = discover([str(tree)])
    assert [each.stem for each in found] == ["hr/README", "it/README", "it/deep/a"]
    about = os.stat(tree / "hr/README.md")
    assert (found[0].size, found[0].mtime) == (4, about.st_mtime)


def test_patterns_go_no_deeper_than_they_say(tree: Path) -> None:
    assert urls(tree, f"{tree}/*/*.md") == ["hr/README.md", "it/.hidden.md", "it/README.md"]
    assert urls(tree, f"{tree}/**/*.txt") == ["it/deep/a.txt"]
    assert urls(tree, f"{tree}/*.bin") == ["b.bin"]


def test_file_that_two_arguments_name_is_the_first_ones(tree: Path) -> None:
    found = discover([str(tree / "it"), str(tree), str(tree / "hr/README.md")])
    assert [Path(each.source).name for each in found] == ["it", "it", tree.name]


def test_links_in_a_circle_end(tree: Path) -> None:
    (tree / "hr" / "again").symlink_to(tree)
    (tree / "hr" / "nowhere.md").symlink_to(tree / "missing.md")
    assert urls(tree, str(tree)) == ["hr/README.md", "it/README.md", "it/deep/a.txt"]


def test_folder_that_cannot_be_listed_ends_the_run(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in it would look as if it were gone."""
    listed = os.listdir

    def refused(path: str) -> list[str]:
        if path.endswith("it"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "listdir", refused)
    with pytest.raises(UnprocessableDocument, match="Permission denied"):
        discover([str(tree)])


def test_source_with_a_name_knows_its_files_wherever_they_lie(tree: Path, tmp_path: Path) -> None:
    before = {each.place for each in discover([str(tree)], "handbook")}
    moved = tmp_path / "elsewhere"
    (tree / "hr").rename(moved.with_name("hr2"))
    assert "handbook/hr/README.md" in before
    assert [each.place for each in discover([str(tmp_path / "hr2")], "handbook")] == [
        "handbook/README.md"
    ]


def test_bucket_is_listed_folder_by_folder() -> None:
    bucket = fsspec.filesystem("memory")
    for name in ("/kb/a.md", "/kb/x/b.md", "/kb/x/c.bin"):
        bucket.pipe(name, b"text")
    try:
        found = discover(["memory://kb"])
        assert [(each.url, each.stem) for each in found] == [
            ("memory:///kb/a.md", "a"),
            ("memory:///kb/x/b.md", "x/b"),
        ]
        assert found[0].read() == b"text"
    finally:
        bucket.rm("/kb", recursive=True)
