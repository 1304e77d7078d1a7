"""The house: who may import whom, what is public, and that all of it is told."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import keepalive
from keepalive import multi

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(keepalive.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Every part of the package, and the parts it may import when it runs. For types alone everybody may look
# at everybody, but for the parts in SEALED.
OPENING = {
    "_dial",
    "_route",
    "_names",
    "_connectors",
    "_settings",
    "_failures",
    "_stats",
    "_warmup",
    "_fork",
    "_lull",
    "_moved",
}
SHELL = {"_attempts", "_connection", "_request", "_engine"}
TEXT = {"_text", "_extras"}  # what may have to be said anywhere
BASE = {"_core", "errors", "abc"} | TEXT
ALLOWED: dict[str, set[str]] = {
    "_core": set(),
    "_text": set(),
    "_extras": set(),
    "errors": {"_core"} | TEXT,
    "abc": {"_core"},
    "_io": {"_core"},
    "_runtime": {"_core"},
    **dict.fromkeys(OPENING, BASE | {"_io", "_runtime"} | OPENING),
    **dict.fromkeys(SHELL, BASE | {"_io", "_runtime"} | OPENING | SHELL),
    "_manager": BASE | {"_io", "_runtime"} | OPENING | SHELL,
    "__init__": BASE | {"_io", "_runtime"} | OPENING | SHELL | {"_manager"},
    "sip": BASE | {"_io", "_runtime"} | OPENING,
    "multi": BASE | {"_io", "_runtime"} | OPENING,
    "http": {"__init__"} | TEXT,  # as any user of the package could have written it
    "httpx": {"__init__", "http"} | TEXT,
    "_cli": {"__init__", "http", "multi", "sip"} | TEXT,  # a stranger to the package, like any other user
    "__main__": {"_cli", "__init__"} | TEXT,
}
SEALED: dict[str, set[str]] = {
    "_core": {"_core"},
    "_io": {"_core", "_io", "_runtime"},
    "_runtime": {"_core", "_runtime"},
}

# What the pool may not know of: clocks, chance, loops, sockets, logs.
IMPURE = {
    "time",
    "random",
    "asyncio",
    "anyio",
    "trio",
    "logging",
    "socket",
    "select",
    "ssl",
    "threading",
    "os",
}
# Third parties, by part; a program that does not use a feature never loads what only that feature needs.
THIRD_PARTIES = {
    "_connectors": {"anyio", "socksio"},
    "_cli": {"anyio", "click", "rich"},
    "_core": set(),
    "_names": {"anyio", "dns"},
    "_route": {"anyio", "idna"},
    "_runtime": {"anyio", "trio"},
    "sip": {"anyio", "sipmessage"},
    "http": {"anyio", "httptools", "trio"},  # trio only where it runs: anyio has no task without a nursery
    "httpx": {"anyio", "httpx2"},  # for types; what runs is imported by its name, httpx2 or httpx
}


class Import(NamedTuple):
    """One import: by whom, of what, for types only or not."""

    file: Path
    part: str
    module: str
    for_types: bool


def part_of(module: str) -> str:
    """Return the part of the package that a module of it is in."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def module_of(file: Path) -> str:
    """Return the dotted name of a file."""
    names = ("keepalive", *file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def imports(file: Path) -> Iterator[Import]:
    """Yield all imports of a file, also those inside of functions."""
    tree = ast.parse(file.read_text())
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    package = module_of(file).split(".")
    if file.name != "__init__.py":
        package.pop()
    own = part_of(module_of(file)) if file.name != "__main__.py" else "__main__"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # "from . import _settings" names a module of the package itself.
            submodules = [f"{module}.{alias.name}" for alias in node.names if is_module(module, alias.name)]
            found = submodules or [module]
        else:
            continue
        for name in found:
            yield Import(file, own, name, id(node) in for_types)


def is_module(package: str, name: str) -> bool:
    """Say whether a name of a package is a module of ours."""
    folder = ROOT.joinpath(*package.split(".")[1:])
    return package.split(".")[0] == "keepalive" and (
        (folder / f"{name}.py").exists() or (folder / name).is_dir()
    )


ALL = [found for file in FILES for found in imports(file)]


def test_every_part_has_its_place() -> None:
    assert {found.part for found in ALL} <= set(ALLOWED)
    assert {"_core", "_io", "_runtime", "_engine", "_manager"} <= {found.part for found in ALL}


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_imports_point_downwards(part: str) -> None:
    for found in ALL:
        if found.part != part or not found.module.startswith("keepalive"):
            continue
        other = part_of(found.module)
        allowed = SEALED.get(part, set(ALLOWED)) if found.for_types else ALLOWED[part] | {part}
        assert other in allowed, f"{found.file.name} of {part} imports {found.module}"


def test_no_module_imports_itself_in_a_circle() -> None:
    arrows: dict[str, set[str]] = {}
    for found in ALL:
        if not found.for_types and found.module.startswith("keepalive."):
            arrows.setdefault(module_of(found.file), set()).add(found.module)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for other in arrows.get(module, ()):
                visit(other, (*path, module))
            done.add(module)

    for module in list(arrows):
        visit(module, ())


def test_the_pool_is_pure() -> None:
    seen = {found.module.split(".")[0] for found in ALL if found.part == "_core"} - {"keepalive"}
    assert seen <= sys.stdlib_module_names
    assert not seen & IMPURE
    for file in (ROOT / "_core").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            assert not isinstance(node, (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)), file


def test_which_address_is_tried_when_is_pure() -> None:
    for name in ("_race", "_memory", "_budget"):
        seen = {found.module.split(".")[0] for found in ALL if found.file == ROOT / "_route" / f"{name}.py"}
        assert not seen & IMPURE, name


def test_what_decides_for_many_peers_is_pure() -> None:
    pure = {"_desk", "_filters", "_later", "_line", "_lives", "_timers", "_traffic", "_types"}
    for found in ALL:
        if found.module == "asyncio.exceptions":
            continue  # words only
        if found.part == "multi" and found.file.stem in pure and not found.for_types:
            assert found.module.split(".")[0] not in IMPURE - {"anyio"}, found  # whose errors links raise
    for name in pure:
        for node in ast.walk(ast.parse((ROOT / "multi" / f"{name}.py").read_text())):
            assert not isinstance(node, (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)), name


def test_third_parties_are_where_they_belong() -> None:
    for found in ALL:
        top = found.module.split(".")[0]
        if top != "keepalive" and top not in sys.stdlib_module_names:
            assert top in THIRD_PARTIES.get(found.part, {"anyio"}), f"{found.file.name} imports {top}"


def test_importing_loads_no_more_than_needed() -> None:
    code = "import sys, keepalive; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    optional = {"trio", "uvloop", "click", "rich", "httptools", "socksio", "dns", "idna"}
    assert not set(done.stdout.split()) & optional


# -- the public surface ------------------------------------------------------------------------------


def test_public_names_are_sorted_and_there() -> None:
    for file in FILES:
        module = importlib.import_module(module_of(file)) if file.name != "__main__.py" else keepalive
        public = getattr(module, "__all__", ())
        assert list(public) == sorted(set(public)), file
        for name in public:
            assert hasattr(module, name), f"{file}: {name}"


def test_all_that_is_public_is_exported() -> None:
    public = set(keepalive.__all__)
    parts = ("_connection", "_connectors", "_manager", "_names", "_request", "_route._options", "_stats")
    for name in ("errors", "abc", *parts):
        module = importlib.import_module(f"keepalive.{name}")
        missing = set(module.__all__) - public - {"Names"}
        assert not missing, f"keepalive.{name} has {missing}"
    visible = {name for name in dir(keepalive) if not name.startswith("_")} - {"annotations"}
    modules = {name for name in visible if inspect.ismodule(getattr(keepalive, name))}
    assert visible - modules == public
    assert modules <= {"abc", "errors", "http", "httpx", "multi", "sip"}


@pytest.mark.parametrize("name", [*keepalive.__all__, *(f"multi.{name}" for name in multi.__all__)])
def test_all_that_is_public_is_documented(name: str) -> None:
    thing = attrgetter(name)(keepalive)
    if name == "multi.Event":
        return  # the union of the event classes
    assert inspect.isclass(thing)
    assert (thing.__doc__ or "").strip()
    assert not (thing.__doc__ or "").startswith(f"{name}(")  # what a dataclass writes by itself
    for member, value in vars(thing).items():
        if member.startswith("_"):
            continue
        function = value.fget if isinstance(value, property) else value
        if inspect.isfunction(function):
            assert inspect.getdoc(function), f"{name}.{member}"


def test_every_module_says_what_it_is_for() -> None:
    for file in FILES:
        assert ast.get_docstring(ast.parse(file.read_text())), file


def test_types_are_shipped() -> None:
    assert (ROOT / "py.typed").exists()


def test_files_and_functions_are_small() -> None:
    for file in FILES:
        text = file.read_text()
        assert text.count("\n") <= 450, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
                lines = (node.end_lineno or 0) - body[0].lineno + 1
                assert lines <= 40, f"{file}: {node.name} has {lines} lines"
