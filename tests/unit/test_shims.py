"""The files that run in the user's Python: any version of it, and what they make of an engine's traceback."""

from __future__ import annotations

import ast
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from entrypoint.runtime import processing

ROOT = Path(__file__).resolve().parents[2]
SHIMS = sorted((ROOT / "entrypoint" / "shims").glob("[!_]*.py"))


def load(name: str) -> Any:
    found: Any = spec_from_file_location(f"_{name}", ROOT / f"entrypoint/shims/{name}.py")
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_all_shims_are_looked_at() -> None:
    assert {path.stem for path in SHIMS} >= {"call", "beam", "frames", "spark"}


@pytest.mark.parametrize("path", SHIMS, ids=lambda path: path.stem)
def test_a_shim_is_python_3_8(path: Path) -> None:
    tree = ast.parse(path.read_text(), str(path), feature_version=(3, 8))
    # And it imports nothing of ours, which the step could then import too, nor a module that 3.8 does not have.
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in imported if name.partition(".")[0] in ("backends", "entrypoint", "tomllib", "zoneinfo")}


TRACE = f"""\
Traceback (most recent call last):
  File "{Path(ast.__file__).parent}/runpy.py", line 1, in run
    exec(code)
  File "{ROOT}/entrypoint/shims/beam.py", line 1, in main
    returned = function()
  File "/engine/core.py", line 5, in process
    yield from fn(element)
    ~~^^^^^^^^^^^
  File "{Path(ast.__file__).parent}/concurrent/futures/_base.py", line 7, in result
    return self.__get_result()
  File "/home/me/job.py", line 3, in check
    return json.loads(text)
           ^^^^^^^^^^^^^^^^
  File "{Path(ast.__file__).parent}/json/__init__.py", line 346, in loads
    return _default_decoder.decode(s)
  File "/engine/core.py", line 9, in hook
    raise
ValueError: first line
  second line"""


def test_of_a_traceback_the_users_frames_and_what_they_called_are_kept() -> None:
    frames = load("frames")
    kept = frames.users(TRACE.splitlines(), lambda file: file.startswith("/engine/"))
    assert kept == [
        "Traceback (most recent call last):",
        '  File "/home/me/job.py", line 3, in check',
        "    return json.loads(text)",
        "           ^^^^^^^^^^^^^^^^",
        f'  File "{Path(ast.__file__).parent}/json/__init__.py", line 346, in loads',
        "    return _default_decoder.decode(s)",
        "ValueError: first line",
        "  second line",
    ]
    assert frames.place(kept[:4]) == " (/home/me/job.py:3)" and frames.place(kept[-2:]) == ""


def test_of_several_tracebacks_the_last_one_counts() -> None:
    frames = load("frames")
    try:
        try:
            raise KeyError("cause")
        except KeyError as error:
            raise ValueError("effect") from error
    except ValueError as error:
        lines = frames.of(error)
    assert lines[0] == frames.BEGIN and lines[-1] == "ValueError: effect" and "cause" not in "\n".join(lines)
    assert frames.last_of(f"Worker says: {TRACE}\n\nand\n{frames.BEGIN}\nKeyError: 1") == [frames.BEGIN, "KeyError: 1"]


@pytest.mark.parametrize("text", ['{"counters": [', "", "[1]", "é", "{" + " " * processing.METRICS + "}"])
def test_torn_metrics_are_none(tmp_path: Path, text: str) -> None:
    assert processing.read_metrics(str(tmp_path / "metrics.json")) == {}
    (tmp_path / "metrics.json").write_bytes(text.encode("latin-1"))
    assert processing.read_metrics(str(tmp_path / "metrics.json")) == {}
    (tmp_path / "metrics.json").write_text('{"a": 1}')
    assert processing.read_metrics(str(tmp_path / "metrics.json")) == {"a": 1}
