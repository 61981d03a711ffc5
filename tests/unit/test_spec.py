"""The JSON Schema says what the types say."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from backends import registry
from backends.config import schema as spec
from backends.config import shape
from entrypoint.runtime import load
from tests.support.documents import SAMPLE, accepts, plain, refusals
from tests.support.running import ROOT

EXAMPLES = sorted(ROOT.glob("examples/*/*.yaml"))


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(spec.schema())
    assert spec.schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_types_have_the_keys_of_the_resolved_shape() -> None:
    def keys(part: type[msgspec.Struct]) -> set[str]:
        return {field.encode_name for field in msgspec.structs.fields(part)}

    assert keys(spec.Step) == {*shape.KINDS, *shape.STEP}
    assert keys(spec.Config) == shape.CONFIG | {"resources", "retry", "timeout", "grace_period", "cache"}
    assert keys(spec.Resources) == shape.RESOURCES
    assert keys(spec.Retry) == shape.RETRY
    assert tuple(spec.schema()["$defs"]["Block"]["properties"]["type"]["enum"]) == registry.ROLES


def test_the_sample_is_accepted() -> None:
    assert refusals(plain(SAMPLE)) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_the_examples_are_accepted_by_schema_and_types(path: Path) -> None:
    config = plain(path.read_text())
    assert refusals(config) == []
    resolved, _ = load.load(load.find(str(path), {}), environ={})
    assert set(config["steps"]) <= {
        step["foreach"]["of"] if step["foreach"] else name for name, step in resolved["steps"].items()
    }


DOCS = (ROOT / "docs" / "config.md").read_text()


def test_the_documentation_names_every_key_and_its_config_is_right() -> None:
    schema = spec.schema()
    for part in (schema, *schema["$defs"].values()):
        for name in part["properties"]:
            assert f"`{name}`" in DOCS or f"{{{name}: " in DOCS or name in ("step", "output"), name
    example = next(block for block in DOCS.split("```") if "version: 1" in block).removeprefix("yaml\n")
    assert accepts(plain(example))
    resolved, _ = load.load(load.Source(example.encode(), "docs/config.md", "/"), environ={})
    assert list(resolved["steps"]) == list(plain(example)["steps"])


def test_there_are_examples() -> None:
    assert EXAMPLES


WRONG: list[tuple[tuple[str, ...], Any]] = [
    (("version",), 2),
    (("version",), None),
    (("nmae",), "x"),
    (("name",), "Penguins"),
    (("steps",), {}),
    (("steps",), []),
    (("steps", "Train"), {"run": ["x"]}),
    (("steps", "x"), {}),
    (("steps", "x"), {"run": ["x"], "call": "a:b"}),
    (("steps", "train", "run"), []),
    (("steps", "train", "run"), "python train.py"),
    (("steps", "train", "outputs"), "model"),
    (("steps", "train", "outputs"), ["a-b"]),
    (("steps", "train", "outputs"), ["a", "a"]),
    (("steps", "train", "inputs"), {"a-b": "clean.table"}),
    (("steps", "train", "inputs", "table"), {"from": "clean.table", "url": "./x"}),
    (("steps", "train", "inputs", "table"), {}),
    (("steps", "train", "as"), "file"),
    (("steps", "train", "timeout"), "2 hours"),
    (("steps", "train", "cache"), "yes"),
    (("steps", "train", "retry", "on"), ["config"]),
    (("steps", "train", "retry", "memory_factor"), 0.5),
    (("steps", "train", "resources", "memory"), "lots"),
    (("steps", "train", "resources", "gpu"), -1),
    (("steps", "train", "env"), {"A": True}),
    (("steps", "train", "foreach"), []),
    (("steps", "train", "foreach"), {"a": 1}),
    (("steps", "train", "foreach"), "abc"),
    (("steps", "train", "foreach"), [0] * 10_001),
    (("steps", "train", "parents"), ["clean"]),
    (("steps", "ingest", "call"), "penguins.ingest.run"),
    (("backends", "gpu", "type"), "trainer"),
    (("backends", "gpu"), {"type": "training"}),
    (("secrets", "API_KEY"), "sk-1"),
    (("secrets", "API_KEY"), {}),
    (("secrets", "API_KEY"), {"env": "A", "file": "b"}),
    (("resolved",), True),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=lambda part: ".".join(part) if isinstance(part, tuple) else None)
def test_what_is_wrong_is_not_accepted(path: tuple[str, ...], value: object) -> None:
    config = copy.deepcopy(plain(SAMPLE))
    target = config
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    assert not accepts(config)


def test_every_key_is_described_for_editors() -> None:
    schema = spec.schema()
    for part in (schema, *schema["$defs"].values()):
        assert part["description"]
        for name, key in part["properties"].items():
            assert key["description"], name


def test_internal_keys_are_not_offered() -> None:
    text = str(spec.schema())
    assert "'resolved'" not in text
    assert "'parents'" not in text
    assert "'gather'" not in text


def test_every_example_in_the_schema_is_right() -> None:
    schema = spec.schema()
    for part in (schema, *schema["$defs"].values()):
        for name, key in part["properties"].items():
            for example in key.get("examples", ()):
                validator = jsonschema.Draft202012Validator({**key, "$defs": schema["$defs"]})
                assert [error.message for error in validator.iter_errors(example)] == [], name
