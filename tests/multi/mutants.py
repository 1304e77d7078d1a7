"""The desk with a bug planted into it; the bugs are in planted.txt, in the form of tests/core's."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import keepalive.multi
from tests.core.mutants import Bug

if TYPE_CHECKING:
    from keepalive.multi._desk import Desk

# In this order, since each one imports from those before it; all else is shared with the real one.
MODULES = ("_timers", "_later", "_lives", "_traffic", "_desk")
SHARED = ("_types", "_filters", "_peer")


def planted() -> list[Bug]:
    """Read the bugs from the file beside this one."""
    text = Path(__file__).with_name("planted.txt").read_text()
    bugs = []
    for module, name, patch in re.findall(r"^(_\w+): (.+)\n((?:[-+ ].*\n)+)", text, re.MULTILINE):
        lines = [(line[0], line[1:] + "\n") for line in patch.splitlines()]
        old = "".join(line for mark, line in lines if mark != "+")
        new = "".join(line for mark, line in lines if mark != "-")
        bugs.append(Bug(module, name, old, new))
    return bugs


def mutant(bug: Bug | None) -> type[Desk]:
    """Compile the desk once more, with a bug."""
    package = "keepalive_multi_mutant"
    parent = ModuleType(package)
    parent.__path__ = []
    loaded = {package: parent}
    for name in SHARED:
        loaded[f"{package}.{name}"] = import_module(f"keepalive.multi.{name}")
    sys.modules.update(loaded)
    try:
        for name in MODULES:
            source = Path(keepalive.multi.__path__[0], f"{name}.py").read_text()
            if bug is not None and name == bug.module:
                assert source.count(bug.old) == 1, f"{source.count(bug.old)} times in {name}:\n{bug.old}"
                source = source.replace(bug.old, bug.new)
            made = loaded[f"{package}.{name}"] = ModuleType(f"{package}.{name}")
            made.__package__ = package
            sys.modules[made.__name__] = made
            exec(compile(source, f"<{name} with a bug>", "exec"), made.__dict__)
        desk: type[Desk] = loaded[f"{package}._desk"].__dict__["Desk"]
        return desk
    finally:
        for name in loaded:
            sys.modules.pop(name, None)
