"""The documentation's tables of arguments are the signatures."""

from __future__ import annotations

import inspect
import re

import pytest

from backends import base
from tests.support.running import ROOT

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
