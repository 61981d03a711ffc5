"""Blocks, names and classes of backends; what each backend must do itself is in tests/contract."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import base, registry
from backends.base import BaseBackend, OrchestratorBaseBackend, ProcessingBaseBackend, TrainingBaseBackend
from backends.errors import ConfigError
from backends.orchestrator.local import OrchestratorLocalBackend

ROOT = Path(__file__).resolve().parents[2]
BUILT_IN = [f"{role}.{name}" for role in registry.ROLES for name in registry.built_in(role)]


class Sample(TrainingBaseBackend):
    """A backend with a parameter of every kind."""

    def __init__(
        self,
        project: str,
        gpus: int = 0,
        share: float = 1.0,
        labels: dict[str, str] | None = None,
        zones: list[str] | None = None,
        mode: Literal["fast", "cheap"] = "fast",
        extra: Any = None,
        *,
        spot: bool = True,
    ) -> None:
        self.project = project
        self.labels = labels


class Outer:
    class Inner(ProcessingBaseBackend):
        """A backend inside another class."""


class Unfinished(OrchestratorBaseBackend):
    """One that forgot its methods."""


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
sample_args = st.fixed_dictionaries(
    {"project": st.text()},
    optional={
        "gpus": st.integers(),
        "share": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 5),
        "labels": st.none() | st.dictionaries(st.text(), st.text(), max_size=3),
        "zones": st.none() | st.lists(st.text(), max_size=3),
        "mode": st.sampled_from(["fast", "cheap"]),
        "extra": json_values,
        "spot": st.booleans(),
    },
)


def problems(block: Any, role: str | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        base.load(block, role)
    return [str(problem) for problem in caught.value.problems]


# -- backends ---------------------------------------------------------------------------------------------------------


@given(sample_args)
@pytest.mark.large
def test_a_backend_survives_its_config(args: dict[str, Any]) -> None:
    backend = Sample(**args)
    block = backend.to_config()
    assert set(block) == {"type", "source", "args"}
    again = BaseBackend.from_config(block)
    assert again == backend and hash(again) == hash(backend)
    assert again.to_config() == block
    assert {name: block["args"][name] for name in args} == args


@given(sample_args, sample_args)
def test_backends_are_equal_if_and_only_if_their_configs_are(one: dict[str, Any], two: dict[str, Any]) -> None:
    from backends import wire

    first, second = Sample(**one), Sample(**two)
    assert (first == second) == (wire.dumps(first.to_config()) == wire.dumps(second.to_config()))


def test_defaults_count_as_arguments() -> None:
    assert Sample(project="p") == Sample(project="p", gpus=0, spot=True)
    assert Sample(project="p") != Sample(project="p", gpus=1)
    assert Sample(project="p").args == {
        "project": "p",
        "gpus": 0,
        "share": 1.0,
        "labels": None,
        "zones": None,
        "mode": "fast",
        "extra": None,
        "spot": True,
    }


def test_equality_tells_classes_and_json_types_apart() -> None:
    class Derived(Sample):
        """The same parameters, another class."""

    assert Sample(project="p") != Derived(project="p")
    assert Sample(project="p", extra=1) != Sample(project="p", extra=True)
    assert Sample(project="p") != {"project": "p"}
    assert len({Sample(project="p"), Sample(project="p"), Sample(project="q")}) == 2


def test_what_the_caller_changes_later_does_not_change_the_backend() -> None:
    labels = {"a": "1"}
    backend = Sample(project="p", labels=labels)
    labels["a"] = "2"
    backend.to_config()["args"]["labels"]["a"] = "3"
    backend.args["labels"]["a"] = "4"
    assert backend.to_config()["args"]["labels"] == {"a": "1"}


def test_repr_makes_the_backend_again() -> None:
    backend = Sample(project="it's", labels={"a": "1"}, share=0.5)
    assert eval(repr(backend)) == backend  # noqa: S307 - our own text


def test_copies_and_pickles_are_equal() -> None:
    backend = Sample(project="p", labels={"a": "1"})
    pickled = pickle.loads(pickle.dumps(backend))  # noqa: S301 - our own bytes
    for again in (copy.copy(backend), copy.deepcopy(backend), pickled):
        assert again == backend and again.labels == {"a": "1"}


def test_all_wrong_arguments_are_told_at_once_with_the_nearest_name() -> None:
    found = problems(
        {"type": "training", "source": f"{__name__}:Sample", "args": {"gpu": 1, "spot": "yes", "zones": [1], "mode": "slow"}}
    )
    assert [problem.partition(": ")[0] for problem in found] == [
        "args.gpu",
        "args.project",
        "args.spot",
        "args.zones",
        "args.mode",
    ]
    assert "(did you mean 'gpus'?)" in found[0]
    assert "needs this argument" in found[1]
    assert "Expected `bool`, got `str`" in found[2]
    assert "Expected `str`, got `int`" in found[3]
    assert "'fast', 'cheap'" in found[4]


def test_making_one_directly_is_checked_too() -> None:
    with pytest.raises(ConfigError, match="did you mean 'max_parallel'"):
        OrchestratorLocalBackend(max_paralel=2)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="at least 1"):
        OrchestratorLocalBackend(max_parallel=0)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), (1, 2), {1: "a"}, b"x", {"a": {1}}, Path("/x"), [float("-inf")], object()]
)
def test_arguments_are_json_values(value: object) -> None:
    with pytest.raises(ConfigError, match=r"args\.extra: Not a JSON value"):
        Sample(project="p", extra=value)


@pytest.mark.parametrize(("name", "value"), [("gpus", True), ("gpus", 1.0), ("gpus", "1"), ("gpus", None), ("project", 3)])
def test_types_are_not_bent(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"args\.{name}"):
        Sample(**{"project": "p", name: value})  # type: ignore[arg-type]


def test_a_signature_must_name_its_parameters() -> None:
    with pytest.raises(TypeError, match="must name its parameters"):

        class Vague(TrainingBaseBackend):
            def __init__(self, **kwargs: Any) -> None:
                pass


def test_from_config_of_a_class_takes_only_its_own_kind() -> None:
    block = {"type": "orchestrator", "source": "local", "args": {"max_parallel": 3}}
    assert OrchestratorLocalBackend.from_config(block) == OrchestratorLocalBackend(max_parallel=3)
    assert OrchestratorBaseBackend.from_config(block) == OrchestratorLocalBackend(max_parallel=3)
    with pytest.raises(ConfigError, match="of type training is needed here"):
        Sample.from_config(block)
    with pytest.raises(ConfigError, match=r"is no Outer\.Inner"):
        Outer.Inner.from_config({"type": "processing", "source": "backends.base:ProcessingBaseBackend", "args": {}})


def test_a_nested_class_has_a_name_and_a_local_one_has_not() -> None:
    backend = Outer.Inner()
    assert backend.to_config() == {"type": "processing", "source": f"{__name__}:Outer.Inner", "args": {}}
    assert BaseBackend.from_config(backend.to_config()) == backend

    class Hidden(TrainingBaseBackend):
        """Nobody else can import it."""

    with pytest.raises(ConfigError, match="top level of a module"):
        Hidden().to_config()


# -- blocks and names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "role", "message"),
    [
        ("local", None, "a backend is a mapping"),
        ({1: "x"}, None, "a backend is a mapping"),
        ({"type": "orchestrator", "sorce": "local"}, None, "sorce: unknown key (did you mean 'source'?)"),
        ({"type": "orchestrator"}, None, "source: expected a string, got None"),
        ({"type": "orchestrator", "source": "local", "args": []}, None, "args: expected a mapping"),
        ({"type": "orchestrater", "source": "local"}, None, "(did you mean 'orchestrator'?)"),
        ({"type": "orchestrator", "source": "locl"}, None, "source: no orchestrator backend 'locl' (did you mean 'local'?)"),
        ({"source": "beam"}, "training", "'beam' is a backend of type orchestrator, not training"),
        ({"type": "training", "source": "x"}, "orchestrator", "type: a backend of type orchestrator is needed here"),
        ({"source": "nowhere.at.all:X"}, "training", "can't be imported here: ModuleNotFoundError"),
        ({"source": "os:path"}, "training", "os:path is no TrainingBaseBackend"),
        ({"source": "os:nothing"}, "training", "module 'os' has no 'nothing'"),
        ({"source": "os.path:join; rm"}, "training", "neither a short name nor package.module:Class"),
        ({"source": ":X"}, "training", "neither a short name nor package.module:Class"),
        ({"source": f"{__name__}:Sample", "args": {"project": "p"}}, "orchestrator", "is no OrchestratorBaseBackend"),
        ({"source": f"{__name__}:Unfinished"}, "orchestrator", "does not define cancel, logs, render, run, status, submit"),
    ],
)
def test_a_wrong_block_says_what_to_write(block: Any, role: str | None, message: str) -> None:
    assert any(message in problem for problem in problems(block, role))


def test_a_module_that_fails_on_import_is_a_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zen_broken_plugin.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(tmp_path)
    [problem] = problems({"source": "zen_broken_plugin:X"}, "training")
    assert "RuntimeError: no licence" in problem


def test_the_table_is_what_the_package_registers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["entry-points"][registry.GROUP]) == set(BUILT_IN)
    for key, target in project["entry-points"][registry.GROUP].items():
        cls = base.class_of(*key.split("."))
        assert target == f"{cls.__module__}:{cls.__qualname__}"


@pytest.mark.parametrize("key", BUILT_IN)
def test_every_built_in_name_loads_and_knows_its_name(key: str) -> None:
    role, _, name = key.partition(".")
    cls = base.class_of(role, name)
    assert role == cls.BACKEND_TYPE
    assert registry.source_of(cls, role) == name
    assert name in registry.names(role)


def test_other_packages_can_register_but_not_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry_points(group: str) -> list[EntryPoint]:
        assert group == "zen_runner.backends"
        return [
            EntryPoint("training.sample", f"{__name__}:Sample", group),
            EntryPoint("orchestrator.local", f"{__name__}:Sample", group),
        ]

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    assert registry.names("training") == ["batch", "docker", "local", "sample"]
    backend = base.load({"type": "training", "source": "sample", "args": {"project": "p"}})
    assert backend == Sample(project="p")
    assert backend.to_config()["source"] == "sample"
    assert base.class_of("orchestrator", "local") is OrchestratorLocalBackend


@pytest.mark.processes
def test_looking_up_a_built_in_name_imports_no_backend_and_no_metadata() -> None:
    code = (
        "import sys; from backends import registry; print(registry.is_registered('orchestrator', 'docker'), *sys.modules);"
        "from backends import base; backend = base.load({'source': 'local', 'args': {'max_parallel': 2}}, 'orchestrator');"
        "print(backend.max_parallel, *sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    (target, *after_find), (max_parallel, *after_load) = (line.split() for line in said.splitlines())
    assert (target, max_parallel) == ("True", "2")
    heavy = {"importlib.metadata", "typing", "msgspec", "inspect", "docker", "backends.orchestrator.docker"}
    assert not {*heavy, "backends.base", "backends.orchestrator.local"} & set(after_find)
    assert not heavy & set(after_load) and "backends.orchestrator.local" in after_load
