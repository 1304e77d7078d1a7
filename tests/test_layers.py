"""The house: who may import whom, what is public, and that all of it is told. Without exemptions."""

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

# Every room of the package, from the ground up, and the rooms that it may import, for types included. A file
# at the top is a room of its own.
BELOW: dict[str, set[str]] = {"base": set(), "errors": {"base"}}
BELOW["pool"] = {"base"}
BELOW["transport"] = {"base"}
BELOW["resolve"] = {"base", "errors", "transport"}
BELOW["connect"] = BELOW["resolve"] | {"resolve"}
OPENING = BELOW["connect"] | {"connect"}
BELOW["manager"] = OPENING | {"pool"}
BELOW["multi"] = BELOW["sip"] = OPENING
BELOW["abc"] = {"connect", "manager", "resolve", "transport"}
BELOW["testing"] = BELOW["manager"] | {"abc", "manager"}
BELOW["__init__"] = BELOW["testing"] | {"abc"}
PUBLIC = {"__init__", "abc", "errors", "testing"}
BELOW["http"] = PUBLIC
BELOW["httpx"] = PUBLIC | {"http"}
# What borrows needs links and a reactor of its own, beside the manager's public names.
BELOW["agent"] = PUBLIC | {"base", "transport"}
BELOW["fleet"] = BELOW["redis"] = PUBLIC
BELOW["cli"] = PUBLIC | {"agent", "fleet", "http", "multi", "sip"}
BELOW["__main__"] = {"cli", *PUBLIC}

# What decides must not know of: clocks, chance, loops, sockets, logs.
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
PURE_FOLDERS = ("pool", "multi/core", "sip/core", "agent/core", "fleet/core", "http/http2/core")
PURE_FILES = ("connect/happy_eyeballs.py", "connect/history.py", "connect/deadlines.py", "resolve/cache.py")
DECIDING = {"h2", "hpack"}
"""Third parties that decide, and do no I/O either."""
# Third parties, by room; a program that does not use a feature never loads what only that feature needs.
THIRD_PARTIES = {
    "agent": {"anyio", "msgspec"},
    "base": {"anyio", "idna"},  # anyio: the errors of its streams
    "connect": {"anyio", "idna", "socksio"},
    "cli": {"anyio", "click", "rich"},
    "pool": set(),
    "resolve": {"anyio", "dns", "idna"},
    "transport": {"anyio", "trio"},
    "testing": {"anyio", "trio"},
    "sip": {"anyio", "sipmessage"},
    "fleet": {"anyio", "coredis"},
    "http": {"anyio", "h2", "hpack", "httptools", "trio"},  # trio: for a task without a nursery
    "redis": {"anyio", "hiredis", "redis", "trio"},  # trio: for a cheap sleep
    "httpx": {"anyio", "httpx", "httpx2"},  # for types; what runs is imported by its name, httpx2 or httpx
}


class Import(NamedTuple):
    """One import: by whom, of which module, of which name of it (None for the module itself)."""

    file: Path
    module: str
    name: str | None

    @property
    def target(self) -> str:
        """The module that it loads."""
        inner = f"{self.module}.{self.name}"
        return inner if self.name and is_module(inner) else self.module


def module_of(file: Path) -> str:
    """Return the dotted name of a file."""
    names = ("keepalive", *file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def is_module(name: str) -> bool:
    """Say whether this is a module of ours."""
    path = ROOT.joinpath(*name.split(".")[1:])
    return name.split(".")[0] == "keepalive" and (path.with_suffix(".py").exists() or path.is_dir())


def room_of(module: str) -> str:
    """Return the room that a module of the package is in."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def imports(file: Path) -> Iterator[Import]:
    """Yield all imports of a file, also those for types and those inside of functions."""
    package = module_of(file).split(".")
    if file.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, alias.name, None)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(file, module, alias.name)


ALL = [found for file in FILES for found in imports(file)]
OWN = [found for found in ALL if found.module.split(".")[0] == "keepalive"]


def test_every_room_has_its_place() -> None:
    assert {room_of(module_of(file)) for file in FILES} == set(BELOW)


@pytest.mark.parametrize("room", sorted(BELOW))
def test_imports_point_downwards(room: str) -> None:
    for found in OWN:
        own, other = room_of(module_of(found.file)), room_of(found.target)
        if own == room != other:
            assert other in BELOW[room], f"{found.file} imports {found.module}"


def test_no_module_imports_itself_in_a_circle() -> None:
    """Not by way of others either, nor for types."""
    arrows: dict[str, set[str]] = {}
    for found in OWN:
        if found.target != module_of(found.file):
            arrows.setdefault(module_of(found.file), set()).add(found.target)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in arrows.get(module, ()):
                visit(other, (*path, module))
            done.add(module)

    for module in sorted(arrows):
        visit(module, ())


def test_no_private_name_leaves_its_room() -> None:
    for found in OWN:
        if room_of(found.target) != room_of(module_of(found.file)):
            for name in (*found.module.split("."), found.name or ""):
                assert not name.startswith("_") or name.startswith("__"), found


def test_features_use_what_is_listed() -> None:
    """HTTP, httpx, Redis and the commands are users of the public API, as anybody could have written them."""
    for found in OWN:
        room, other = room_of(module_of(found.file)), room_of(found.target)
        if room not in ("http", "httpx", "redis", "fleet", "cli") or other == room or other == "__init__":
            continue
        listed = importlib.import_module(f"keepalive.{other}")
        if found.target == found.module:
            assert found.module == f"keepalive.{other}", found
            assert found.name is None or found.name in listed.__all__, found


@pytest.mark.parametrize("folder", PURE_FOLDERS)
def test_what_decides_is_pure(folder: str) -> None:
    files = sorted((ROOT / folder).glob("*.py"))
    assert files, "the folder is gone"
    for file in files:
        check_pure(file)


@pytest.mark.parametrize("name", PURE_FILES)
def test_this_part_is_pure(name: str) -> None:
    check_pure(ROOT / name)


def check_pure(file: Path) -> None:
    seen = {found.module.split(".")[0] for found in ALL if found.file == file}
    assert seen - {"keepalive"} - DECIDING <= sys.stdlib_module_names, file
    assert not seen & IMPURE, file
    for node in ast.walk(ast.parse(file.read_text())):
        assert not isinstance(node, (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)), file


def test_third_parties_are_where_they_belong() -> None:
    for found in ALL:
        top = found.module.split(".")[0]
        if top != "keepalive" and top not in sys.stdlib_module_names:
            room = room_of(module_of(found.file))
            assert top in THIRD_PARTIES.get(room, {"anyio"}), f"{found.file} imports {top}"


def test_importing_loads_no_more_than_needed() -> None:
    code = "import sys, keepalive; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    optional = {
        "trio",
        "uvloop",
        "click",
        "rich",
        "httptools",
        "msgspec",
        "redis",
        "hiredis",
        "socksio",
        "dns",
        "idna",
        "h2",
        "hpack",
    }
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
    for name in ("errors", "abc"):
        module = importlib.import_module(f"keepalive.{name}")
        assert set(module.__all__) <= set(keepalive.__all__), name
    visible = {name for name in dir(keepalive) if not name.startswith("_")} - {"annotations"}
    modules = {name for name in visible if inspect.ismodule(getattr(keepalive, name))}
    assert visible - modules == set(keepalive.__all__)


@pytest.mark.parametrize("name", [*keepalive.__all__, *(f"multi.{name}" for name in multi.__all__)])
def test_all_that_is_public_is_documented(name: str) -> None:
    thing = attrgetter(name)(keepalive)
    if name == "multi.Event":
        return  # the union of the event classes
    assert inspect.isclass(thing) or inspect.isfunction(thing)
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
