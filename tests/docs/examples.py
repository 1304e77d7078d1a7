"""The examples of the README and of the manual, by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
BLOCK = re.compile(
    r"(?:^<!-- example: (?P<name>\w+) -->\n)?^```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)


class Example(NamedTuple):
    """A block of Python in a page."""

    page: str
    name: str | None
    code: str


def examples() -> list[Example]:
    """Return all blocks of Python, in the order of pages."""
    return [
        Example(page.relative_to(ROOT).as_posix(), block["name"], block["code"])
        for page in PAGES
        for block in BLOCK.finditer(page.read_text("utf-8"))
    ]


def run(name: str) -> dict[str, Any]:
    """Run the example of that name and return what it defines."""
    example = next(example for example in examples() if example.name == name)
    names: dict[str, Any] = {"__name__": f"example_{name}"}
    exec(compile(example.code, f"{example.page}: {name}", "exec", dont_inherit=True), names)
    return names
