"""What a config says of steps on Beam and Spark, and of the image that a step needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from backends.config import resolve
from backends.errors import ConfigError
from backends.orchestrator.docker import OrchestratorDockerBackend
from backends.store import claims, open_store
from entrypoint.runtime import processing

KINDS: dict[str, dict[str, Any]] = {
    "call": {"call": "m:f"},
    "run": {"run": ["true"]},
    "beam": {"beam": "m:f"},
    "spark": {"spark": "m:f"},
}


def resolved(step: dict[str, Any], **top: Any) -> dict[str, Any]:
    document = {"version": 1, "steps": {"only": step}, **top}
    return resolve.resolve(document, "/base", "name", {})


def image(step: dict[str, Any], **top: Any) -> str:
    return str(resolved(step, **top)["steps"]["only"]["image"])


def problems(step: dict[str, Any], **top: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        resolved(step, **top)
    return str(caught.value)


@pytest.mark.parametrize(
    ("step", "variant"),
    [
        (KINDS["call"], "cpu"),
        (KINDS["run"], "cpu"),
        (KINDS["beam"], "beam"),
        (KINDS["spark"], "spark"),
        ({**KINDS["run"], "backend": "spark"}, "spark"),
        ({**KINDS["run"], "backend": "direct"}, "beam"),
        ({**KINDS["run"], "resources": {"gpu": 1}}, "cuda"),
        ({**KINDS["call"], "resources": {"gpu": 2}}, "cuda"),
        ({**KINDS["beam"], "resources": {"gpu": 1}}, "beam"),
    ],
)
def test_a_step_that_names_no_image_gets_the_variant_it_needs(step: dict[str, Any], variant: str) -> None:
    assert image(step) == f"zen-runner:{variant}"
    document = OrchestratorDockerBackend().render(resolved(step))[0]
    assert document["container"]["Image"] == f"zen-runner:{variant}"


def test_an_image_that_is_named_is_the_one() -> None:
    assert image(KINDS["beam"], image="mine:1") == "mine:1"
    assert image({**KINDS["beam"], "image": "mine:2"}, image="mine:1") == "mine:2"
    assert image(KINDS["beam"], image="zen-runner:cpu") == "zen-runner:cpu"


def test_resolving_again_changes_nothing() -> None:
    once = resolve.resolve({"version": 1, "steps": dict(KINDS)}, "/base", "name", {})
    assert resolve.resolve(once, "/elsewhere", "other", {}) == once
    assert once["steps"]["beam"]["as"] == once["steps"]["spark"]["as"] == "url"


@pytest.mark.parametrize(
    ("kind", "backend", "said"),
    [
        ("beam", "spark", "the backend 'spark' runs spark and run steps, and this is a beam step; write one for beam"),
        ("spark", "direct", "the backend 'direct' runs beam and run steps, and this is a spark step; write one for spark"),
        ("call", "spark", "the backend 'spark' runs spark and run steps, and this is a call step; remove it"),
    ],
)
def test_a_backend_of_another_engine_is_an_error(kind: str, backend: str, said: str) -> None:
    assert problems({**KINDS[kind], "backend": backend}) == f"steps.only.backend: {said}"


def test_a_block_of_the_config_is_checked_too() -> None:
    block = {"type": "processing", "source": "spark", "args": {"master": "spark:/typo"}}
    said = problems({**KINDS["beam"], "backend": "cluster"}, backends={"cluster": block})
    assert "backends.cluster.args.master: 'spark:/typo' is not a Spark master; write local" in said


def test_inputs_outputs_and_args_of_a_beam_step_may_share_names() -> None:
    """They come in mappings of their own; only args are keyword arguments."""
    step = {"inputs": {"table": "./a"}, "outputs": ["table"], "args": {"table": 1}}
    assert resolved({**KINDS["beam"], **step})["steps"]["only"]["args"] == {"table": 1}
    assert "'table' is also an input" in problems({**KINDS["call"], **step})
    assert "can't be a function's argument" in problems({**KINDS["spark"], "args": {"not-a-name": 1}})


def test_only_files_of_an_event_log_are_kept(tmp_path: Path) -> None:
    """The step can write to that directory: a pipe would hold up the supervisor, and a link leads elsewhere."""
    log = tmp_path / "scratch/spark-events/log"
    log.mkdir(parents=True)
    (log / "events_1").write_text("{}")
    (log / ".events_1.crc").write_text("x")
    os.mkfifo(log / "pipe")
    (log / "link").symlink_to("/etc/hostname")
    store = open_store(str(tmp_path / "store"))
    kept = processing.keep_events(store, claims.Attempt(store, "r", "a", 1, "token"), str(tmp_path / "scratch"))
    assert kept == ["runs/r/a/1/spark-events/log/events_1"]
