"""How Sphinx builds the manual: `make docs`."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

project = "keepalive"
author = "The keepalive maintainers"
project_copyright = author

extensions = ["myst_parser", "sphinx.ext.autodoc", "citations", "docstrings"]
exclude_patterns = ["_build"]

# Nothing is fetched: neither the inventories of other manuals nor scripts nor fonts.
html_theme = "furo"
html_title = "keepalive"
html_show_sphinx = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# The docstrings write code in single backticks.
default_role = "code"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"

# The names in ":ivar addr:" are taken for references, and several classes have an `addr`; none is one.
suppress_warnings = ["ref.python"]
