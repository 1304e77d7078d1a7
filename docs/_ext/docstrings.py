"""An indented block in a docstring is an example, even if the paragraph before it has no two colons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def mark_examples(
    _app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]
) -> None:
    """Put in the two colons that reStructuredText wants before an indented block."""
    marked: list[str] = []
    last = ""  # the last line before the present one that is not empty
    for line in lines:
        begins = line.startswith("    ") and marked and not marked[-1]
        if begins and last[:1] not in (" ", ":", "*", "-") and not last.endswith("::"):
            marked += ["::", ""]
        marked.append(line)
        last = line or last
    lines[:] = marked


def setup(app: Sphinx) -> dict[str, Any]:
    """Take part in the build, as Sphinx wants it."""
    app.connect("autodoc-process-docstring", mark_examples)
    return {"parallel_read_safe": True}
