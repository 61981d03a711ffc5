"""What the documentation says of the code is so: arguments, hooks, records, floors, files and links."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from backends import base
from backends.base import TrainingBaseBackend
from backends.orchestrator.driven.backend import ClientDrivenBackend
from backends.orchestrator.driven.container_platform import ContainerPlatform, ContainerRenderer
from backends.orchestrator.driven.containers import ContainersBackend
from backends.orchestrator.remote.backend import RemoteBackend
from backends.orchestrator.remote.jobs import JobsBackend, PipelineBackend
from backends.orchestrator.remote.machine import MachineBackend
from backends.platform import Platform
from tests.support.running import ROOT
from tests.unit.test_arrows import FLOORS

# A table's page and the first word of its head, and the backend whose arguments it has.
TABLES = {
    ("batch.md", "argument"): "orchestrator.batch",
    ("beam.md", "argument"): "orchestrator.beam",
    ("beam.md", "argument of `direct`"): "processing.direct",
    ("docker.md", "argument"): "orchestrator.docker",
    ("kubeflow.md", "argument"): "orchestrator.kubeflow",
    ("spark.md", "argument"): "processing.spark",
}
TABLE = re.compile(r"^\| (argument(?: of `\w+`)?) \|.*\n\|[-| :]+\n((?:\|.*\n)+)", re.MULTILINE)


def tables() -> dict[tuple[str, str], list[str]]:
    """Return the arguments of every table, by page and head."""
    return {
        (path.name, head): [name for row in rows.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])]
        for path in sorted((ROOT / "docs").glob("*.md"))
        for head, rows in TABLE.findall(path.read_text())
    }


def test_every_table_is_looked_at() -> None:
    assert set(tables()) == set(TABLES)


@pytest.mark.parametrize(("table", "backend"), TABLES.items(), ids=TABLES.values())
def test_a_table_has_the_arguments_in_their_order(table: tuple[str, str], backend: str) -> None:
    role, _, name = backend.partition(".")
    assert tables()[table] == list(inspect.signature(base.class_of(role, name)).parameters)


HOOKS = re.compile(r"^\| hook of `(\w+)` \|.*\n\|[-| :]+\n((?:\|.*\n)+)", re.MULTILINE)
BASES: dict[str, type] = {
    "ClientDrivenBackend": ClientDrivenBackend,
    "ContainerPlatform": ContainerPlatform,
    "ContainerRenderer": ContainerRenderer,
    "ContainersBackend": ContainersBackend,
    "JobsBackend": JobsBackend,
    "MachineBackend": MachineBackend,
    "PipelineBackend": PipelineBackend,
    "Platform": Platform,
    "RemoteBackend": RemoteBackend,
    "TrainingBaseBackend": TrainingBaseBackend,
}


def hooks() -> dict[str, set[str]]:
    """Return the hooks that docs/backends.md names, by base."""
    text = (ROOT / "docs" / "backends.md").read_text()
    return {base: {name for row in rows.splitlines() for name in words(row)} for base, rows in HOOKS.findall(text)}


def words(row: str) -> list[str]:
    """Return the names in the first cell of a table's row."""
    return re.findall(r"`(\w+)`", row.split("|")[1])


def own(cls: type) -> set[str]:
    """Return the public names that a class itself declares."""
    return {name for name in [*vars(cls), *vars(cls).get("__annotations__", {})] if name[0] != "_"}


def test_every_base_of_backends_has_its_hooks_in_a_table() -> None:
    assert hooks().keys() == BASES.keys()


@pytest.mark.parametrize("base", BASES)
def test_the_hooks_of_a_base_are_its_own(base: str) -> None:
    everything = set().union(*map(own, BASES[base].__mro__))
    assert hooks()[base] <= everything


@pytest.mark.parametrize("base", BASES)
def test_what_a_backend_must_write_is_among_the_hooks(base: str) -> None:
    named = hooks()
    # What no base of it has written for the backend: its abstract methods, and for a platform all there is.
    bases = [cls.__name__ for cls in BASES[base].__mro__ if cls.__name__ in named]
    must = set(getattr(BASES[base], "__abstractmethods__", ()))
    if base in ("Platform", "ContainerPlatform", "ContainerRenderer"):
        must |= own(BASES[base]) - {"look"}
    elif base == "RemoteBackend":
        must -= {"render", "send", "statuses", "end"}  # the bases over it write these
    assert must <= set().union(*(named[name] for name in bases))


def test_the_keys_of_a_record_are_all_listed() -> None:
    text = (ROOT / "docs" / "store.md").read_text()
    table = re.search(r"## What a record holds\n[^|]*((?:\|.*\n)+)", text)
    assert table is not None
    listed = [name for row in table[1].splitlines()[2:] for name in words(row)]
    [record] = [
        node.value
        for node in ast.walk(ast.parse((ROOT / "backends" / "store" / "records.py").read_text()))
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "Record"
    ]
    assert isinstance(record, ast.Call) and isinstance(record.args[1], ast.Dict)
    assert sorted(listed) == sorted(str(ast.literal_eval(key)) for key in record.args[1].keys if key is not None)


def test_the_drawing_of_the_floors_is_the_floors() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    drawing = re.search(r"^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert drawing is not None
    lines = [re.findall(r"[a-z_.]+", line.partition("│")[2].partition("│")[0]) for line in drawing[1].splitlines() if "│" in line]
    assert [set(rooms) for rooms in lines if rooms][::-1] == [set(rooms) for rooms in FLOORS]


@pytest.mark.parametrize("page", ["architecture.md", "backends.md", "remote.md", "../CONTRIBUTING.md"])
def test_the_files_that_a_page_names_are_there(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    named = set(re.findall(r"`((?:backends|entrypoint|tests|docs|images|examples|benchmarks)/[\w./]*)`", text))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]), ids=lambda path: path.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        path = (page.parent / target[0]) if target[0] else page
        assert path.exists(), f"{page.name}: {target[0]}"
        if target[1]:
            heads = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert target[1] in anchors, f"{page.name}: {target[0]}#{target[1]}"
