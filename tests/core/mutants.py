"""The pool with a bug planted into it."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import keepalive._core

if TYPE_CHECKING:
    from keepalive._core._pool import Pool

# In this order, since each one imports from those before it. Types and records are shared with the
# real pool: the world outside compares states by identity.
MODULES = ("_agenda", "_line", "_queue", "_books", "_rules", "_pool")
SHARED = ("_types", "_records")


@dataclass(frozen=True)
class Bug:
    """A passage of a module, and what is to stand there instead."""

    module: str
    name: str
    old: str
    new: str


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


def mutant(bug: Bug | None) -> type[Pool]:
    """Compile the pool once more, with a bug."""
    package = "keepalive_mutant"
    parent = ModuleType(package)
    parent.__path__ = []
    loaded = {package: parent}
    for name in SHARED:
        loaded[f"{package}.{name}"] = import_module(f"keepalive._core.{name}")
    sys.modules.update(loaded)
    try:
        for name in MODULES:
            source = Path(keepalive._core.__path__[0], f"{name}.py").read_text()
            if bug is not None and name == bug.module:
                assert source.count(bug.old) == 1, f"{source.count(bug.old)} times in {name}:\n{bug.old}"
                source = source.replace(bug.old, bug.new)
            made = loaded[f"{package}.{name}"] = ModuleType(f"{package}.{name}")
            made.__package__ = package
            sys.modules[made.__name__] = made
            exec(compile(source, f"<{name} with a bug>", "exec"), made.__dict__)
        pool: type[Pool] = loaded[f"{package}._pool"].__dict__["Pool"]
        return pool
    finally:
        for name in loaded:
            sys.modules.pop(name, None)
