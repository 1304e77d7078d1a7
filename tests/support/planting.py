"""Modules with a bug planted into them: what a walk is worth is what it catches."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

PLANTED = re.compile(r"^(\w+)(?: in (\w+))?: (.+)\n((?:[-+ ].*\n)+)", re.MULTILINE)


@dataclass(frozen=True)
class Bug:
    """A passage of a module, and what is to stand there instead.

    :ivar walk: the kind of walk that is likely to meet it soonest, or empty
    """

    module: str
    walk: str
    name: str
    old: str
    new: str


@dataclass(frozen=True)
class Garden:
    """Where bugs are planted.

    :ivar modules: the full names of those that are compiled anew, in the order of their imports. All others
        stay shared with the real ones: what the world outside compares by identity
    """

    modules: tuple[str, ...]

    def mutant(self, bug: Bug | None, name: str) -> Any:
        """Compile the modules once more, with a bug; return what the last of them calls by that name."""
        real = {module: import_module(module) for module in self.modules}
        made = real[self.modules[-1]]
        try:
            for module, original in real.items():
                made = _compiled(module, str(original.__file__), bug)
            return made.__dict__[name]
        finally:
            sys.modules.update(real)


def _compiled(module: str, file: str, bug: Bug | None) -> ModuleType:
    """Compile one module anew; whoever imports it from now on gets this one."""
    source = Path(file).read_text()
    if bug is not None and module.rpartition(".")[2] == bug.module:
        assert source.count(bug.old) == 1, f"{source.count(bug.old)} times in {module}:\n{bug.old}"
        source = source.replace(bug.old, bug.new)
    made = sys.modules[module] = ModuleType(module)
    made.__package__ = module.rpartition(".")[0]
    exec(compile(source, f"<{module} with a bug>", "exec"), made.__dict__)
    return made


def planted(file: Path) -> list[Bug]:
    """Read bugs from a file: each names its module, and perhaps a walk; then comes a patch of whole lines."""
    bugs = []
    for module, walk, name, patch in PLANTED.findall(file.read_text()):
        lines = [(line[0], line[1:] + "\n") for line in patch.splitlines()]
        old = "".join(line for mark, line in lines if mark != "+")
        new = "".join(line for mark, line in lines if mark != "-")
        bugs.append(Bug(module, walk, name, old, new))
    return bugs


def trials(bug: Bug, walks: Collection[str], seeds: Collection[int]) -> Iterator[tuple[str, int]]:
    """Yield all walks by name and seed, first those that are likely to meet the bug."""
    assert bug.walk in ("", *walks), f"no walk is called {bug.walk}"
    likely = [name for name in walks if name == bug.walk]
    others = [name for name in walks if name != bug.walk]
    yield from ((name, seed) for seed in seeds for name in likely)
    yield from ((name, seed) for seed in seeds for name in others)
