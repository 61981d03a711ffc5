"""The direction of imports: entrypoint → backends; in backends, concrete backend → role base → vocabulary.

Read from the source, so that an import inside a function counts as well. Imports for type checkers alone don't: they are
not there when the program runs.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROLES = ("orchestrator", "processing", "training")
# What a role's backends share; every other module in a role's package is a concrete backend.
ROLE_BASES = {
    "backends.base",
    *(f"backends.{role}" for role in ROLES),
    "backends.orchestrator.client",
    "backends.orchestrator.driver",
    *(f"backends.orchestrator.{name}" for name in ("remote", "submission", "following")),
}
# Loaded only where a client is built: with the platform's client the start would take seconds, and its absence would break
# what does not need it.
SDKS = {
    "apache_beam",
    "azure",
    "boto3",
    "botocore",
    "docker",
    "google",
    "googleapiclient",
    "kfp",
    "kubernetes",
    "obstore",
    "pyspark",
    "requests",
}
VOCABULARY, ROLE_BASE, CONCRETE = range(3)


def modules() -> dict[str, Path]:
    """Return every module of both packages by its full name."""
    found = {}
    for package in ("backends", "entrypoint"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def layer(module: str) -> int:
    if module in ROLE_BASES:
        return ROLE_BASE
    return CONCRETE if module.split(".")[1:2] and module.split(".")[1] in ROLES else VOCABULARY


def is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def imports(source: str, module: str, is_package: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield the full name of everything that a module imports when it runs, and whether that happens at its import."""

    def visit(node: ast.AST, at_import: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.If) and is_type_checking(node.test):
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


def imports_of(module: str) -> Iterator[tuple[str, bool]]:
    path = MODULES[module]
    return imports(path.read_text(), module, path.name == "__init__.py")


def test_the_tree_is_what_this_test_thinks() -> None:
    assert {"backends.errors", "backends.orchestrator.local", "entrypoint.__main__", "entrypoint"} <= set(MODULES)
    assert set(MODULES) >= ROLE_BASES - {"backends.processing", "backends.training"}
    assert [layer(name) for name in ("backends", "backends.store", "backends.base", "backends.orchestrator.local")] == [
        VOCABULARY,
        VOCABULARY,
        ROLE_BASE,
        CONCRETE,
    ]


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith("backends")))
def test_backends_never_import_the_entrypoint(module: str) -> None:
    assert [name for name, _ in imports_of(module) if name.split(".")[0] == "entrypoint"] == []


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith("backends")))
def test_arrows_inside_backends_point_to_the_vocabulary(module: str) -> None:
    wrong = [
        name
        for name, _ in imports_of(module)
        if name.startswith("backends.")
        and (layer(name) > layer(module) or (layer(name) == layer(module) == CONCRETE and name != module))
    ]
    assert wrong == [], f"{module} imports {wrong}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_platform_client_is_imported_with_a_module(module: str) -> None:
    # The one module that wraps a client may import it: it is itself imported only where the client is needed.
    allowed = {"backends.objectstore": {"obstore"}}.get(module, set())
    found = {name.split(".")[0] for name, at_import in imports_of(module) if at_import}
    assert found & SDKS <= allowed


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_that_wraps_a_client_is_never_imported_with_another(module: str) -> None:
    assert "backends.objectstore" not in {name for name, at_import in imports_of(module) if at_import}


def test_the_finder_sees_every_kind_of_import() -> None:
    source = """
import os, docker.errors
from google.cloud import storage
from . import driver
from ..store import Store
from backends import records, outcome
TYPE_CHECKING = False
if TYPE_CHECKING:
    import boto3
else:
    import kfp
class A:
    import kubernetes
    def f(self):
        import entrypoint.step
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
        ("backends.orchestrator.driver", True),
        ("backends.store", True),
        ("backends.records", True),
        ("backends.outcome", True),
        ("kfp", True),
        ("kubernetes", True),
        ("entrypoint.step", False),
        ("pyspark", True),
    ]
