"""The direction of imports: entrypoint → backends; in backends, concrete backend → role base → vocabulary.

Read from the source, so that an import inside a function counts as well. Imports for type checkers alone don't: they are
not there when the program runs.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.sdks import SDKS

ROOT = Path(__file__).resolve().parents[2]
# The rooms of `backends`, lowest floor first. A module imports from its own room and from lower floors; the name of a room is
# that of its folder, or of a module that stands alone. What is not named here is a plain module on the ground floor.
FLOORS = (
    ("ground",),
    ("store",),
    ("registry",),
    ("calls", "platform"),
    ("view",),
    ("base",),
    ("config",),
    ("arguments", "shipping"),
    ("orchestrator.driven", "processing"),
    ("orchestrator.remote",),
    ("orchestrator",),  # every backend of it is a room of its own, and none imports another
    ("training",),  # a training backend has its platform and its documents from the orchestrator of the same name
)


def modules() -> dict[str, Path]:
    """Return every module of both packages by its full name."""
    found = {}
    for package in ("backends", "entrypoint"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def room(module: str) -> str:
    """Return the room that a module of ``backends`` stands in."""
    parts = module.split(".")[1:]
    known = {name for floor in FLOORS for name in floor}
    if ".".join(parts[:2]) in known:
        return ".".join(parts[:2])
    if len(parts) > 1 and parts[0] == "orchestrator":
        return ".".join(parts[:2])
    return parts[0] if parts and parts[0] in known else "ground"


def floor(module: str) -> int:
    """Return how high a module's room stands; an orchestrator's own room stands on the floor of orchestrators."""
    name = room(module)
    return next((height for height, names in enumerate(FLOORS) if name in names), FLOORS.index(("orchestrator",)))


def is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def imports(source: str, module: str, is_package: bool = False, types: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield the full name of everything that a module imports when it runs, and whether that happens at its import.

    With ``types`` also what it imports for type checkers alone.
    """

    def visit(node: ast.AST, at_import: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.If) and is_type_checking(node.test) and not types:
            for statement in node.orelse:
                yield from visit(statement, at_import)
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, at_import
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*package, base] if base else package)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield (full if full in MODULES else base), at_import
        inside = at_import and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    return visit(ast.parse(source), True)


def imports_of(module: str, types: bool = False) -> Iterator[tuple[str, bool]]:
    path = MODULES[module]
    return imports(path.read_text(), module, path.name == "__init__.py", types)


def cycles(arrows: Mapping[str, Collection[str]]) -> list[set[str]]:
    """Return the sets of nodes that reach each other, each of more than one node."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for name in arrows.get(todo.pop(), ()):
                if name not in seen:
                    seen.add(name)
                    todo.append(name)
        return seen

    reach = {name: reachable(name) for name in arrows}
    found = {frozenset(other for other in reach[name] if name in reach.get(other, ())) for name in arrows}
    return sorted((set(group) for group in found if len(group) > 1), key=sorted)


def test_the_tree_is_what_this_test_thinks() -> None:
    assert {"backends.errors", "backends.orchestrator.local", "entrypoint.__main__", "entrypoint"} <= set(MODULES)
    names = ("backends", "backends.wire", "backends.store.base", "backends.base", "backends.orchestrator.remote.backend")
    assert [room(name) for name in names] == ["ground", "ground", "store", "base", "orchestrator.remote"]
    assert room("backends.orchestrator.batch.render") == room("backends.orchestrator.batch") == "orchestrator.batch"
    assert floor("backends.wire") < floor("backends.store") < floor("backends.base") < floor("backends.orchestrator.batch")
    assert {name for names in FLOORS for name in names} - {"ground"} <= {room(name) for name in MODULES}


def test_modules_import_no_one_who_imports_them_types_included() -> None:
    arrows = {name: {other for other, _ in imports_of(name, types=True)} & MODULES.keys() - {name} for name in MODULES}
    assert cycles(arrows) == []


def test_the_finder_of_cycles_finds_them() -> None:
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert cycles(arrows) == [{"a", "b", "c"}, {"d", "e"}]


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith("backends")))
def test_backends_never_import_the_entrypoint(module: str) -> None:
    assert [name for name, _ in imports_of(module) if name.split(".")[0] == "entrypoint"] == []


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith("backends")))
def test_arrows_inside_backends_point_to_lower_floors(module: str) -> None:
    wrong = [
        name
        for name, _ in imports_of(module)
        if name.split(".")[0] == "backends" and room(name) != room(module) and floor(name) >= floor(module)
    ]
    assert wrong == [], f"{module} imports {wrong}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_platform_client_is_imported_with_a_module(module: str) -> None:
    # The one module that wraps a client may import it: it is itself imported only where the client is needed.
    allowed = {"backends.store.bucket": {"obstore"}}.get(module, set())
    found = {name.split(".")[0] for name, at_import in imports_of(module) if at_import}
    assert found & SDKS <= allowed


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_that_wraps_a_client_is_never_imported_with_another(module: str) -> None:
    assert "backends.store.bucket" not in {name for name, at_import in imports_of(module) if at_import}


def test_the_finder_sees_every_kind_of_import() -> None:
    source = """
import os, docker.errors
from google.cloud import storage
from . import local
from ..store import open_store
from backends.store import records
from backends import outcome
TYPE_CHECKING = False
if TYPE_CHECKING:
    import boto3
else:
    import kfp
class A:
    import kubernetes
    def f(self):
        import entrypoint.runtime.attempt
        lambda: __import__("x")
try:
    import pyspark
except ImportError:
    pass
"""
    assert list(imports(source, "backends.orchestrator.local")) == [
        ("os", True),
        ("docker.errors", True),
        ("google.cloud", True),
        ("backends.orchestrator.local", True),
        ("backends.store", True),
        ("backends.store.records", True),
        ("backends.outcome", True),
        ("kfp", True),
        ("kubernetes", True),
        ("entrypoint.runtime.attempt", False),
        ("pyspark", True),
    ]
