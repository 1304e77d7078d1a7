"""Modules with a bug planted into them: what a walk is worth is what it catches."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Bug:
    """A passage of a module, and what is to stand there instead."""

    module: str
    name: str
    old: str
    new: str


@dataclass(frozen=True)
class Garden:
    """Where bugs are planted.

    :ivar package: the package that the modules are in
    :ivar modules: those that are compiled anew, in the order of their imports
    :ivar shared: those that stay shared with the real ones: what the world outside compares by identity
    """

    package: ModuleType
    modules: tuple[str, ...]
    shared: tuple[str, ...]

    def mutant(self, bug: Bug | None, name: str) -> Any:
        """Compile the modules once more, with a bug; return what the last of them calls by that name."""
        package = f"{self.package.__name__.replace('.', '_')}_mutant"
        parent = ModuleType(package)
        parent.__path__ = []
        loaded = {package: parent}
        for module in self.shared:
            loaded[f"{package}.{module}"] = import_module(f"{self.package.__name__}.{module}")
        sys.modules.update(loaded)
        try:
            for module in self.modules:
                source = Path(self.package.__path__[0], f"{module}.py").read_text()
                if bug is not None and module == bug.module:
                    assert source.count(bug.old) == 1, (
                        f"{source.count(bug.old)} times in {module}:\n{bug.old}"
                    )
                    source = source.replace(bug.old, bug.new)
                made = loaded[f"{package}.{module}"] = ModuleType(f"{package}.{module}")
                made.__package__ = package
                sys.modules[made.__name__] = made
                exec(compile(source, f"<{module} with a bug>", "exec"), made.__dict__)
            return loaded[f"{package}.{self.modules[-1]}"].__dict__[name]
        finally:
            for module in loaded:
                sys.modules.pop(module, None)


def planted(file: Path) -> list[Bug]:
    """Read bugs from a file: each names its module, what follows is a patch of whole lines."""
    bugs = []
    for module, name, patch in re.findall(r"^(\w+): (.+)\n((?:[-+ ].*\n)+)", file.read_text(), re.MULTILINE):
        lines = [(line[0], line[1:] + "\n") for line in patch.splitlines()]
        old = "".join(line for mark, line in lines if mark != "+")
        new = "".join(line for mark, line in lines if mark != "-")
        bugs.append(Bug(module, name, old, new))
    return bugs
