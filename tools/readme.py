"""Keep the README's generated parts true: the diagram of the graph and the map of the files.

`python tools/readme.py` rewrites them; `--check` only says whether they are up to date.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from pathlib import Path

from serve_app.orchestration.graph import diagram

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def file_map() -> str:
    """A line for each module: its path and the first line of its docstring."""
    lines = []
    for path in sorted((ROOT / "serve_app").rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        if docstring:
            name = path.relative_to(ROOT).as_posix().replace("/__init__.py", "/")
            lines.append(f"{name:<40} {docstring.splitlines()[0]}")
    return "```\n" + "\n".join(lines) + "\n```"


def render(text: str) -> str:
    """The README with its generated parts made anew."""
    parts = {"diagram": f"```mermaid\n{diagram()}\n```", "map": file_map()}
    for name, body in parts.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text = re.sub(pattern, lambda m, b=body: f"{m[1]}{b}\n{m[2]}", text, flags=re.DOTALL)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when stale")
    check = parser.parse_args().check
    text = README.read_text(encoding="utf-8")
    fresh = render(text)
    if check and fresh != text:
        sys.exit("README.md is stale; run: .venv/bin/python tools/readme.py")
    README.write_text(fresh, encoding="utf-8")


if __name__ == "__main__":
    main()
