"""What is public is told in the manual, and what the manual refers to is there."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

import keepalive
from keepalive import CloseReason, Stats, sip
from tests.docs.examples import PAGES, ROOT

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

DOCS = ROOT / "docs"
MODULES = (
    "keepalive",
    *(
        f"keepalive.{name}"
        for name in ("abc", "agent", "errors", "fleet", "http", "httpx", "multi", "redis", "sip", "testing")
    ),
)


def page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def load_citations() -> ModuleType:
    spec = importlib.util.spec_from_file_location("citations", DOCS / "_ext" / "citations.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["citations"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


citations = load_citations()


def test_every_knob() -> None:
    knobs = keepalive.ConnectionManager.__init__.__annotations__.keys() - {"return"}
    assert [knob for knob in knobs if f"| `{knob}`" not in page("guides/limits.md")] == []


def test_every_error() -> None:
    assert [name for name in keepalive.errors.__all__ if f"`{name}`" not in page("operation/errors.md")] == []


def test_every_number_and_every_reason() -> None:
    words = [field.name for field in fields(Stats)] + [str(reason) for reason in CloseReason]
    assert [word for word in words if f"`{word}`" not in page("operation/stats.md")] == []


def test_every_limit_of_sip() -> None:
    limits = [field.name for field in fields(sip.SipConfig) if field.name.startswith("max_")]
    described = page("guides/sip.md") + (sip.SipConfig.__doc__ or "")
    assert [limit for limit in limits if limit not in described] == []


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    pages = [path.read_text("utf-8") for path in (DOCS / "reference").glob("*.md")]
    assert [text for text in pages if f".. automodule:: {name}\n" in text], f"{name} has no page"
    left_out = {
        word
        for text in pages
        if f".. automodule:: {name}\n" in text
        for listed in re.findall(r":exclude-members: (.*)", text)
        for word in listed.split(", ")
    }
    others = {
        word for module in MODULES if module != name for word in importlib.import_module(module).__all__
    }
    assert left_out <= others


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_within_the_repository_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!\w+:)([^)#\s]+)", path.read_text("utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_files_that_the_architecture_names_are_there() -> None:
    named = re.findall(r"`((?:\w+/)+\w+\.py)`", page("architecture.md"))
    assert len(named) > 25
    there = [name for name in named if (ROOT / name).exists() or (ROOT / "keepalive" / name).exists()]
    assert named == there


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


# -- heritage -------------------------------------------------------------------------------------------


def test_each_item_of_the_heritage_stands_there_once() -> None:
    names = citations.items(page("heritage.md"))
    assert len(names) == len(set(names)) > 300


def test_what_tests_cite_is_in_the_heritage() -> None:
    known = set(citations.items(page("heritage.md")))
    cited = citations.citations()
    assert len(cited) > 300
    assert [citation for citation in cited if citation.item not in known] == []


def test_tests_cite_no_document_that_is_not_there() -> None:
    named = {
        (path.relative_to(ROOT).as_posix(), document)
        for path in (ROOT / "tests").rglob("*.py")
        if path.parent.name != "docs"
        for document in re.findall(r"\b(\w+\.md)\b", path.read_text("utf-8"))
    }
    there = {path.name for path in PAGES} | {"CHANGELOG.md"}
    assert sorted((path, document) for path, document in named if document not in there) == []


def test_the_files_that_the_heritage_names_are_there() -> None:
    there = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert [name for name in re.findall(r"`(test_\w+\.py)`", page("heritage.md")) if name not in there] == []


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3.1", ["3.1"]),
        ("1.28-30", ["1.28", "1.29", "1.30"]),
        ("1.31-1.33, 1.29", ["1.31", "1.32", "1.33", "1.29"]),
        ("3.14 to 3.16 and 3.2", ["3.14", "3.15", "3.16", "3.2"]),
        ("6.A", ["6.A"]),
    ],
)
def test_lists_of_numbers_are_read(text: str, numbers: list[str]) -> None:
    assert list(citations.numbers(text)) == numbers
