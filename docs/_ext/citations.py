"""Which test shows which behaviour: read from the tests, and added to the items of heritage.md.

An item of heritage.md begins with its name, as in `* **pools 3.33**`. A test cites it in a docstring or a
comment by the word "heritage" and that name: `heritage pools 3.33`. Several numbers may follow, and ranges.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sphinx.application import Sphinx

TESTS = Path(__file__).parents[2] / "tests"
NAMES = "poe|pools|multiplex|tcpmulti|sip"
NUMBER = r"(?:\d+\.)?(?:\d+|[A-H])\b"
LABEL = re.compile(r" \(B\d+\w*(?:, B\d+\w*)*\)")  # the letters that some items have beside their number
NUMBERED = re.compile(r"test_(\d+)(?:_and_(\d+))?_")  # in a file that cites a whole list
CITATION = re.compile(rf"heritage ({NAMES}) ({NUMBER}(?:(?:, | and | to |-){NUMBER})*)")
ITEM = re.compile(rf"^\* \*\*((?:{NAMES}) [\d.A-H]+)\*\*", re.MULTILINE)


class Citation(NamedTuple):
    """An item of heritage.md, and the test that cites it."""

    item: str
    file: str
    test: str  # empty: the whole file


def numbers(text: str) -> Iterator[str]:
    """Yield the numbers in "3.1, 3.4-6 and 3.9": 3.1, 3.4, 3.5, 3.6, 3.9."""
    section, last = "", 0
    for joint, found in re.findall(rf"(^|, | and | to |-)({NUMBER})", text):
        head, _, tail = found.rpartition(".")
        section = head or section
        if not tail.isdigit():
            yield found
            continue
        first = last + 1 if joint in ("-", " to ") else int(tail)
        last = int(tail)
        yield from (f"{section}.{number}" if section else f"{number}" for number in range(first, last + 1))


def in_text(text: str) -> Iterator[str]:
    """Yield the items that a docstring or a comment cites."""
    for name, listed in CITATION.findall(LABEL.sub("", re.sub(r"\s+(?:# )?", " ", text))):
        yield from (f"{name} {number}" for number in numbers(listed))


def citations(root: Path = TESTS) -> list[Citation]:
    """Read what the tests cite: in docstrings, and in comments, which count for the test around them."""
    found: dict[Citation, None] = {}
    for path in sorted(root.rglob("*.py")):
        source = path.read_text("utf-8")
        if "heritage" not in source:
            continue
        file = path.relative_to(root.parent).as_posix()
        tests = [
            node
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        ]
        with path.open("rb") as stream:
            for token in tokenize.tokenize(stream.readline):
                if token.type in (tokenize.STRING, tokenize.COMMENT):
                    line = token.start[0]
                    around = [node.name for node in tests if node.lineno <= line <= (node.end_lineno or 0)]
                    for item in in_text(token.string):
                        found[Citation(item, file, around[0] if around else "")] = None
        found.update(dict.fromkeys(by_number(file, [test.name for test in tests], found)))
    return list(found)


def by_number(file: str, tests: list[str], found: Iterable[Citation]) -> list[Citation]:
    """Return what the names of tests cite, such as `test_14_...` where their file cites a list with 14."""
    listed = {
        citation.item.rpartition(".")[2]: citation.item for citation in found if citation[1:] == (file, "")
    }
    names = [(test, NUMBERED.match(test)) for test in tests]
    cited = [(test, str(int(number))) for test, match in names if match for number in match.groups("0")]
    return [Citation(listed[number], file, test) for test, number in cited if number in listed]


def items(text: str) -> list[str]:
    """Return the names of the items of heritage.md."""
    return ITEM.findall(text)


def add_tests(_app: Sphinx, name: str, source: list[str]) -> None:
    """Add to each item of heritage.md the tests that cite it."""
    if name != "heritage":
        return
    shown: dict[str, list[str]] = defaultdict(list)
    cited = citations()
    closer = {(item, file) for item, file, test in cited if test}
    for item, file, test in cited:
        if test or (item, file) not in closer:
            shown[item].append(f"`{file}`" + (f" `{test}`" if test else ""))
    lines = []
    for line in source[0].splitlines():
        lines.append(line)
        if (match := ITEM.match(line)) and match[1] in shown:
            lines += ["", *(f"  * {test}" for test in shown[match[1]]), ""]
    source[0] = "\n".join(lines) + "\n"


def setup(app: Sphinx) -> dict[str, Any]:
    """Take part in the build, as Sphinx wants it."""
    app.connect("source-read", add_tests)
    return {"parallel_read_safe": True}
