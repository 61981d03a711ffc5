"""``cache: true`` through the real command line: what is found again, and what makes a step run anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.configs import config, write
from tests.support.running import results, run


def pipeline(folder: Path) -> dict[str, Any]:
    """Return the steps; every real run of ``make`` or ``use`` adds a line to ``ran``."""
    write(
        folder,
        mod_py=f"""
        import os
        def make(out, text):
            print("made", file=open({str(folder.parent / "ran")!r}, "a"))
            out.write_text(text)
            return {{"length": len(text)}}
        """,
    )
    script = f'echo used >> {folder.parent / "ran"}; cat "$1" > "$2"; echo "$COLOUR" >> "$2"'
    return {
        "make": {"call": "mod:make", "args": {"text": "abc"}, "outputs": ["out"], "cache": True},
        "use": {
            "run": ["sh", "-c", script, "sh", "{inputs.x}", "{outputs.y}", "{make.values.length}"],
            "inputs": {"x": "make.out"},
            "outputs": ["y"],
            "env": {"COLOUR": "blue"},
            "cache": True,
        },
    }


def go(folder: Path, steps: dict[str, Any], run_id: str, **document: Any) -> None:
    done = run("--config", str(config(folder, steps=steps, code=str(folder), **document)), cwd=folder, ZEN_RUNNER_RUN_ID=run_id)
    assert done.code == 0, done.errors


def cached(folder: Path, run_id: str) -> dict[str, bool]:
    return {step: results(folder, run_id, step)[0]["cached_from"] is not None for step in ("make", "use")}


def test_the_same_work_is_done_once(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    steps = pipeline(folder)
    go(folder, steps, "one")
    assert cached(folder, "one") == {"make": False, "use": False}
    go(folder, steps, "two")
    assert cached(folder, "two") == {"make": True, "use": True}
    assert (tmp_path / "ran").read_text() == "made\nused\n"
    first, second = (results(folder, run_id, "use")[0] for run_id in ("one", "two"))
    assert second["outputs"] == first["outputs"]
    assert second["cached_from"] == {"run": "one", "step": "use", "attempt": 1}
    assert results(folder, "two", "make")[0]["values"] == {"length": 3}


def change_args(folder: Path, steps: dict[str, Any]) -> dict[str, Any]:
    steps["make"]["args"]["text"] = "abd"
    return {}


def change_env(folder: Path, steps: dict[str, Any]) -> dict[str, Any]:
    steps["use"]["env"]["COLOUR"] = "red"
    return {}


def change_top_env(folder: Path, steps: dict[str, Any]) -> dict[str, Any]:
    return {"env": {"SHADE": "dark"}}


def change_code(folder: Path, steps: dict[str, Any]) -> dict[str, Any]:
    (folder / "helper.py").write_text("# new\n")
    return {}


def change_command(folder: Path, steps: dict[str, Any]) -> dict[str, Any]:
    steps["use"]["run"][2] += "; true"
    return {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (change_args, {"make": False, "use": False}),
        (change_env, {"make": True, "use": False}),
        (change_top_env, {"make": False, "use": False}),
        (change_code, {"make": False, "use": False}),
        (change_command, {"make": True, "use": False}),
    ],
)
def test_what_makes_a_step_run_anew(
    tmp_path: Path, change: Callable[[Path, dict[str, Any]], dict[str, Any]], expected: dict[str, bool]
) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    steps = pipeline(folder)
    go(folder, steps, "one")
    go(folder, steps, "two", **change(folder, steps))
    assert cached(folder, "two") == expected


def test_without_the_word_nothing_is_cached(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    steps = pipeline(folder)
    for step in steps.values():
        step.pop("cache")
    go(folder, steps, "one")
    go(folder, steps, "two")
    assert cached(folder, "two") == {"make": False, "use": False}


def test_a_cached_artifact_that_was_changed_is_a_miss(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    steps = pipeline(folder)
    go(folder, steps, "one")
    artifact = folder / "store" / results(folder, "one", "make")[0]["outputs"]["out"]["key"]
    artifact.chmod(0o644)  # it is published read-only
    artifact.write_text("abd")
    go(folder, steps, "two")
    assert cached(folder, "two") == {"make": False, "use": True}  # made anew, and again the same
    go(folder, steps, "three")
    assert cached(folder, "three") == {"make": True, "use": True}
