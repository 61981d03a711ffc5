"""Configs as text: one with everything, any plain data, and hostile ones."""

from __future__ import annotations

from typing import Any

import jsonschema
from hypothesis import strategies as st

from backends.config import document, schema

SAMPLE = """\
version: 1
name: penguins
store: ./runs
image: zen-runner:cpu
code: .
backend: laptop
backends:
  laptop:  {type: orchestrator, source: local, args: {max_parallel: 4}}
  cluster: {type: orchestrator, source: kubernetes, args: {namespace: ml}}
  spark:   {type: processing, source: spark, args: {master: "local[*]"}}
  gpu:     {type: training, source: vertex, args: {project: p, region: europe-west1, accelerator: NVIDIA_TESLA_T4}}
secrets:
  API_KEY: {env: API_KEY}
steps:
  ingest:
    call: penguins.ingest:run
    args: {species: all}
    outputs: [raw]
  clean:
    spark: penguins.clean:run
    inputs: {raw: ingest.raw}
    outputs: [table]
    backend: spark
  train:
    run: [python, train.py, --data, "{inputs.table}", --out, "{outputs.model}", --epochs, "{args.epochs}"]
    inputs: {table: clean.table}
    args: {epochs: 3}
    outputs: [model]
    backend: gpu
    resources: {cpu: 4, memory: 16Gi, gpu: 1}
    retry: {limit: 2, on: [infra, oom, terminated], memory_factor: 2}
    timeout: 2h
    grace_period: 30s
"""
VALIDATOR = jsonschema.Draft202012Validator(schema.schema())

# What YAML wants escaped in another way than JSON is left out: control characters and its extra line ends.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=8)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(TEXT, children, max_size=4),
    max_leaves=15,
)

DEEP = {
    "flow lists": "[" * 100_000,
    "flow mappings": "{a: " * 100_000,
    "block lists": "- " * 100_000,
    "block mappings": "".join(" " * n + "a:\n" for n in range(200)),
    "closed": "[" * 101 + "]" * 101,
    "JSON": '{"a":' * 100_000,
    "closed JSON": '{"a":' * 102 + "1" + "}" * 102,
}


def _bomb(width: int = 9, height: int = 12) -> str:
    lines = [f"a0: &a0 [{','.join(['x'] * width)}]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * width)}]" for n in range(1, height)]
    return "\n".join(lines)


BOMBS = {
    "billion laughs": _bomb(),
    "quadratic text": "a: &a " + "x" * 1_000_000 + "\nb: [" + ",".join(["*a"] * 1000) + "]",
    "merged": "a: &a {" + ", ".join(f"k{n}: 1" for n in range(5000)) + "}\nb:\n" + "  - <<: *a\n" * 5000,
    "merged often": "a: &a {" + ", ".join(f"k{n}: 1" for n in range(5000)) + "}\nb: {<<: [" + ",".join(["*a"] * 5000) + "]}",
    "many values": "a: [" + "[]," * 1_100_000 + "]",
}


def plain(text: str) -> Any:
    return document.parse(text.encode(), "cfg.yaml").data


def refusals(config: Any) -> list[str]:
    """Return what the schema has against a config."""
    return [error.message for error in VALIDATOR.iter_errors(config)]


def accepts(config: Any) -> bool:
    """Return whether the schema accepts a config."""
    return bool(VALIDATOR.is_valid(config))
