from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.errors import UnprocessableDocument
from serve_app.retrieval.documents import discover, read


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "travel-policy.md"


def test_front_matter_gives_id_title_and_metadata(file: Path) -> None:
    file.write_text(
        "---\nid: travel\ntitle: Travel\nas_of: 2026-01-31\nrank: 3\n---\nHotels: 190.\n", "utf-8"
    )
    document = read(file)
    assert (document.id, document.title, document.text.strip()) == (
        "travel",
        "Travel",
        "Hotels: 190.",
    )
    assert document.metadata == {"as_of": "2026-01-31", "rank": 3}


def test_without_front_matter_heading_and_file_name_serve(file: Path) -> None:
    file.write_text("# Travelling\nHotels: 190.\n", "utf-8")
    assert (read(file).id, read(file).title) == ("travel-policy", "Travelling")
    file.write_text("Hotels: 190.\n", "utf-8")
    assert read(file).title == "travel-policy"


def test_windows_line_ends_are_understood(file: Path) -> None:
    file.write_bytes(b"---\r\ntitle: Travel\r\n---\r\nHotels: 190.\r\n")
    assert read(file).title == "Travel"


def test_byte_order_mark_does_not_hide_front_matter(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf---\ntitle: Travel\n---\nHotels: 190.\n")
    assert read(file).title == "Travel"


def test_blank_front_matter_values_count_as_absent(file: Path) -> None:
    file.write_text("---\nid:\ntitle:\nas_of:\n---\nHotels: 190.\n", "utf-8")
    document = read(file)
    assert (document.id, document.title) == ("travel-policy", "travel-policy")
    assert document.metadata.get("as_of") in (None, "")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no text"),
        (b"---\ntitle: x\n---\n \n", "holds no text"),
        (b"caf\xe9", "not UTF-8"),
        (b"---\ntitle: [x\n---\ntext", "not valid YAML"),
        (b"---\n- a\n- b\n---\ntext", "key: value"),
    ],
)
def test_unreadable_file_is_named_with_its_reason(file: Path, content: bytes, reason: str) -> None:
    file.write_bytes(content)
    with pytest.raises(UnprocessableDocument, match=reason) as caught:
        read(file)
    assert str(file) in caught.value.message


def test_folder_gives_its_text_files_sorted(tmp_path: Path) -> None:
    for name in ("b.md", "a.txt", "sub/c.markdown", "image.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x", "utf-8")
    assert [path.name for path in discover([tmp_path])] == ["a.txt", "b.md", "c.markdown"]


def test_missing_path_and_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnprocessableDocument, match="no such file"):
        discover([tmp_path / "nowhere"])
    with pytest.raises(UnprocessableDocument, match="files below it"):
        discover([tmp_path])
