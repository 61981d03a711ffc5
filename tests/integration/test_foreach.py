"""`foreach:` through the real command line: a step an item, what is gathered after it, and every way to name one item."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.configs import config, write
from tests.support.running import Ended, results, run

WRITE = {"run": ["sh", "-c", 'printf "%s" "$0" > "$ZEN_OUTPUT_OUT"', "{item}"], "outputs": ["out"]}
READ = 'import os,sys; d=sys.argv[1]; print("read", *(n + "=" + open(os.path.join(d, n)).read() for n in sorted(os.listdir(d))))'
RETRY = {"retry": {"limit": 2, "on": ["user"], "backoff": "1ms"}}


def go(
    folder: Path, steps: dict[str, Any], *arguments: str, expect: int = 0, run_id: str = "r", env: Mapping[str, str] | None = None
) -> Ended:
    path = config(folder, steps=steps, code=None)
    done = run("run", "--config", str(path), *arguments, cwd=folder, ZEN_RUNNER_RUN_ID=run_id, env=env)
    assert done.code == expect, done.errors
    return done


def reader(**step: Any) -> dict[str, Any]:
    return {"run": ["python3", "-c", READ, "{inputs.parts}"], "inputs": {"parts": "make.out"}, **step}


def log(folder: Path, step: str, attempt: int = 1, run_id: str = "r") -> str:
    found = sorted((folder / "store" / "runs" / run_id / step / str(attempt) / "log").iterdir())
    return "".join(path.read_text() for path in found)


def test_a_run_for_each_item_and_all_of_them_gathered(tmp_path: Path) -> None:
    items = [f"i{number}" for number in range(12)]
    done = go(tmp_path, {"make": {**WRITE, "foreach": items}, "use": reader()}, "--max-parallel", "3")
    entries = [f"{number:08d}=i{number}" for number in range(12)]
    assert log(tmp_path, "use") == f"read {' '.join(entries)}\n"
    (record,) = results(tmp_path, "r", "use")
    digests = [results(tmp_path, "r", f"make.{number}")[0]["outputs"]["out"]["digest"] for number in range(12)]
    from backends import wire

    text = '["zen-runner gathered",1]\n' + "".join(f"{digest}\n" for digest in digests)
    assert record["inputs"] == {"parts": f"sha256:{wire.sha256(text.encode())}"}
    assert "make.11  success" in done.stdout.decode()


def test_the_item_comes_with_its_type_its_keys_and_in_the_environment(tmp_path: Path) -> None:
    write(
        tmp_path,
        mod_py="""
        import json, os
        def make(out, lr, whole, text):
            out.mkdir()
            item = json.loads(os.environ["ZEN_ITEM"])
            (out / "said.json").write_text(json.dumps([lr, whole, text, item, os.environ["ZEN_ITEM_INDEX"], os.environ["LR"]]))
            return {"lr": lr, "index": int(os.environ["ZEN_ITEM_INDEX"])}
        def use(parts, lrs):
            assert sorted(path.name for path in parts.iterdir()) == ["00000000", "00000001"]
            return {"lrs": lrs, "said": [json.loads((path / "said.json").read_text()) for path in sorted(parts.iterdir())]}
        """,
    )
    items = [{"lr": 0.5, "x": "{outputs.out} $(id)"}, {"lr": 2, "x": "'é'"}]
    written = json.loads(json.dumps(items).replace("{outputs.out}", "{{outputs.out}}"))
    steps = {
        "make": {
            "foreach": written,
            "call": "mod:make",
            "args": {"lr": "{item.lr}", "whole": "{item}", "text": "x={item.x}"},
            "env": {"LR": "{item.lr}"},
            "outputs": ["out"],
        },
        "use": {"call": "mod:use", "inputs": {"parts": "make.out"}, "args": {"lrs": "{make.values.lr}"}},
        "plain": {"run": ["sh", "-c", 'echo "{make.values.index} $ZEN_ITEM"'], "after": ["use"]},
    }
    path = config(tmp_path, steps=steps, code=str(tmp_path))
    done = run("--config", str(path), cwd=tmp_path, ZEN_RUNNER_RUN_ID="r", ZEN_ITEM="not mine")
    assert done.code == 0, done.errors
    assert results(tmp_path, "r", "use")[0]["values"] == {
        "lrs": [0.5, 2],
        "said": [[item["lr"], item, f"x={item['x']}", item, str(index), str(item["lr"])] for index, item in enumerate(items)],
    }
    assert log(tmp_path, "plain") == "[0,1] \n"


def test_inputs_may_be_made_of_the_item(tmp_path: Path) -> None:
    write(tmp_path, {"data/a.csv": "one", "data/b.csv": "two"})
    steps = {
        "make": {
            "foreach": ["a.csv", "b.csv"],
            "inputs": {"file": "./data/{item}"},
            "run": ["cp", "{inputs.file}", "{outputs.out}"],
            "outputs": ["out"],
        },
        "use": reader(),
    }
    go(tmp_path, steps)
    assert log(tmp_path, "use") == "read 00000000=one 00000001=two\n"


def test_one_foreach_gathers_another(tmp_path: Path) -> None:
    script = 'cat "$0"/* > "$ZEN_OUTPUT_OUT"; printf "%s" "$1" >> "$ZEN_OUTPUT_OUT"'
    steps = {
        "first": {**WRITE, "foreach": ["a", "b"]},
        "make": {
            "foreach": [1, 2, 3],
            "run": ["sh", "-c", script, "{inputs.x}", "{item}"],
            "inputs": {"x": "first.out"},
            "outputs": ["out"],
        },
        "use": reader(),
    }
    go(tmp_path, steps)
    assert log(tmp_path, "use") == "read 00000000=ab1 00000001=ab2 00000002=ab3\n"


def test_as_url_gets_a_list_of_urls(tmp_path: Path) -> None:
    write(
        tmp_path,
        mod_py="""
        import json, os
        def use(parts, more):
            assert json.loads(os.environ["ZEN_INPUT_PARTS"]) == parts == more
            return {"parts": parts}
        """,
    )
    steps = {
        "make": {**WRITE, "foreach": ["a", "b"]},
        "use": {"call": "mod:use", "as": "url", "inputs": {"parts": "make.out"}, "args": {"more": "{inputs.parts}"}},
        "show": {"run": ["printf", "%s", "{inputs.parts}"], "as": "url", "inputs": {"parts": "make.out"}},
    }
    done = run("--config", str(config(tmp_path, steps=steps, code=str(tmp_path))), cwd=tmp_path, ZEN_RUNNER_RUN_ID="r")
    assert done.code == 0, done.errors
    urls = [f"{tmp_path}/store/runs/r/make.{index}/1/out/out" for index in range(2)]
    assert results(tmp_path, "r", "use")[0]["values"] == {"parts": urls}
    assert json.loads(log(tmp_path, "show")) == urls


def test_each_item_is_retried_alone_and_a_failed_one_stops_what_comes_after(tmp_path: Path) -> None:
    # Item b succeeds when its mark is there already, item c never does.
    script = 'test "$0" != c || exit 3; test "$0" != b || test -e mark || { touch mark; exit 4; }; echo > "$ZEN_OUTPUT_OUT"'
    steps = {
        "make": {"foreach": ["a", "b", "c", "d"], "run": ["sh", "-c", script, "{item}"], "outputs": ["out"], **RETRY},
        "use": reader(),
        "other": {"run": ["true"]},
    }
    done = go(tmp_path, steps, "--keep-going", "--output", "json", expect=3)
    assert [len(results(tmp_path, "r", f"make.{index}")) for index in range(4)] == [1, 2, 3, 1]
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1]["summary"]["skipped"] == {"use": "make.2 failed"}
    assert results(tmp_path, "r", "other")[0]["class"] == "success"


def test_a_run_is_resumed_where_its_items_were(tmp_path: Path) -> None:
    script = 'echo "$0" >> ran; test "$0" != c || test -e fixed || exit 3; echo "$0" > "$ZEN_OUTPUT_OUT"'
    steps = {
        "make": {
            "foreach": ["a", "b", "c"],
            "run": ["sh", "-c", script, "{item}"],
            "outputs": ["out"],
            "retry": {"limit": 0},
        },
        "use": reader(),
    }
    go(tmp_path, steps, "--max-parallel", "1", expect=3)
    (tmp_path / "fixed").touch()
    go(tmp_path, steps)
    assert (tmp_path / "ran").read_text() == "a\nb\nc\nc\n"
    assert log(tmp_path, "use").startswith("read 00000000=a")
    status = run("status", "--config", "config.json", "r", "--output", "json", cwd=tmp_path)
    assert {name: step["class"] for name, step in json.loads(status.stdout)["steps"].items()} == dict.fromkeys(
        ["make.0", "make.1", "make.2", "use"], "success"
    )


def test_the_cache_is_by_item(tmp_path: Path) -> None:
    def steps(*items: Any) -> dict[str, Any]:
        script = 'echo "$ZEN_ITEM" >> ran; echo "$ZEN_ITEM" > "$ZEN_OUTPUT_OUT"'  # nothing but the variable tells the item
        make = {"foreach": list(items), "run": ["sh", "-c", script], "outputs": ["out"], "cache": True}
        return {"make": make, "use": {**reader(), "cache": True}}

    def cached(run_id: str, *names: str) -> list[bool]:
        return [results(tmp_path, run_id, name)[0]["cached_from"] is not None for name in names]

    every = ("make.0", "make.1", "use")
    go(tmp_path, steps("a", {"b": "{{inputs.x}}"}), run_id="one")
    go(tmp_path, steps("a", {"b": "{{inputs.x}}"}), run_id="two")
    assert cached("two", *every) == [True, True, True]
    go(tmp_path, steps("a", "c"), run_id="three")
    assert cached("three", *every) == [True, False, False]
    assert len((tmp_path / "ran").read_text().splitlines()) == 3


def test_a_member_that_was_changed_is_refused(tmp_path: Path) -> None:
    steps = {"make": {**WRITE, "foreach": ["a", "b"]}, "use": reader()}
    for name in ("make.0", "make.1"):
        go(tmp_path, steps, "--step", name)
    path = tmp_path / "store/runs/r/make.1/1/out/out"
    path.write_text("forged")
    done = go(tmp_path, steps, "--step", "use", expect=65)
    assert "is not what was published" in done.record["message"] and "make.1" in done.record["message"]


def test_a_member_that_has_not_run_is_named(tmp_path: Path) -> None:
    steps = {"make": {**WRITE, "foreach": ["a", "b"]}, "use": reader()}
    go(tmp_path, steps, "--step", "make.0")
    done = go(tmp_path, steps, "--step", "use", expect=65)
    assert "steps.use needs step 'make.1', which has no good result" in done.record["message"]


def test_a_value_that_one_item_lacks_is_named(tmp_path: Path) -> None:
    script = 'test "$ZEN_ITEM_INDEX" = 1 || echo "{\\"x\\": 1}" > "$ZEN_VALUES"'
    steps = {"make": {"foreach": [1, 2], "run": ["sh", "-c", script]}, "use": {"run": ["echo", "{make.values.x}"]}}
    done = go(tmp_path, steps, expect=65)
    assert "steps.use: {make.1.values.x}: make.1.values has nothing, but no 'x'" in done.record["message"]


# -- one item alone ----------------------------------------------------------------------------------------------------

THREE = {"make": {**WRITE, "foreach": ["a", "b", "c"]}}


@pytest.mark.parametrize(
    ("variables", "member"),
    [
        ({"ZEN_RUNNER_ITEM_INDEX": "2"}, 2),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "1"}, 1),
        ({"JOB_COMPLETION_INDEX": "0"}, 0),
        ({"ZEN_RUNNER_ITEM_INDEX": "1", "AWS_BATCH_JOB_ARRAY_INDEX": "2", "JOB_COMPLETION_INDEX": "0"}, 1),
        ({"ZEN_RUNNER_ITEM_INDEX": "", "JOB_COMPLETION_INDEX": "2"}, 2),
    ],
)
@pytest.mark.parametrize("way", ["option", "variable"])
def test_the_platforms_index_says_which_item(tmp_path: Path, variables: dict[str, str], member: int, way: str) -> None:
    path = config(tmp_path, steps=THREE, code=None)
    arguments = ["--step", "make"] if way == "option" else []
    step = {"ZEN_RUNNER_STEP": "make"} if way == "variable" else {}
    done = run("--config", str(path), *arguments, cwd=tmp_path, ZEN_RUNNER_RUN_ID="r", env={**variables, **step})
    assert (done.code, done.record["step"]) == (0, f"make.{member}")
    assert [entry.name for entry in (tmp_path / "store/runs/r").iterdir()] == [f"make.{member}"]


def test_an_index_is_for_foreach_steps_alone(tmp_path: Path) -> None:
    steps = {"a": {"run": ["true"]}, **THREE}
    assert go(tmp_path, steps, "--step", "a", env={"JOB_COMPLETION_INDEX": "7"}).record["step"] == "a"
    assert go(tmp_path, steps, "--step", "make.0", env={"JOB_COMPLETION_INDEX": "1"}).record["step"] == "make.0"


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "step 'make' has an item for each index from 0 to 2: name one, such as make.0, or set one of $ZEN_RUNNER_"),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "3"}, "$AWS_BATCH_JOB_ARRAY_INDEX is '3', and the items of step 'make' go from 0 to 2"),
        ({"ZEN_RUNNER_ITEM_INDEX": "-1"}, "$ZEN_RUNNER_ITEM_INDEX is '-1', and the items of step 'make' go from 0 to 2"),
        ({"ZEN_RUNNER_ITEM_INDEX": "x"}, "$ZEN_RUNNER_ITEM_INDEX is 'x', and"),
    ],
)
def test_without_an_index_that_is_there_it_is_a_config_error(tmp_path: Path, variables: dict[str, str], words: str) -> None:
    done = go(tmp_path, THREE, "--step", "make", expect=78, env=variables)
    assert words in done.record["message"]
    assert not (tmp_path / "store/runs").exists()


def test_no_such_member(tmp_path: Path) -> None:
    done = go(tmp_path, THREE, "--step", "make.3", expect=78)
    assert "no step 'make.3' (the steps are: make)" in done.record["message"]


def test_the_children_of_an_array_job_belong_to_one_run(tmp_path: Path) -> None:
    path = config(tmp_path, steps=THREE, code=None)
    for index in range(2):
        job = {"AWS_BATCH_JOB_ID": f"0a1b-2c:{index}", "AWS_BATCH_JOB_ARRAY_INDEX": str(index), "AWS_BATCH_JOB_ATTEMPT": "1"}
        done = run("--config", str(path), "--step", "make", cwd=tmp_path, env=job)
        assert (done.code, done.record["run"]) == (0, "0a1b-2c")
    (record,) = results(tmp_path, "0a1b-2c", "make.1")
    assert record["platform"] == {"name": "aws-batch", "run": "0a1b-2c:1", "attempt": "1"}


# -- how it looks ------------------------------------------------------------------------------------------------------


def test_many_items_are_one_row_in_every_table(tmp_path: Path) -> None:
    script = 'echo "hi $0"; test "$0" != 3 || exit 9; echo > "$ZEN_OUTPUT_OUT"'
    make = {"foreach": list(range(30)), "run": ["sh", "-c", script, "{item}"], "outputs": ["out"], "retry": {"limit": 0}}
    steps = {"make": make, "use": {"run": ["true"], "after": ["make"]}}
    path = config(tmp_path, steps=steps, code=None)
    plan = run("run", "--config", str(path), "--dry-run", cwd=tmp_path).stdout.decode()
    assert [line.split()[1:4] for line in plan.splitlines()[3:]] == [["make", "(30)", "run"], ["use", "run", "make"]]
    done = go(tmp_path, steps, "--keep-going", expect=9)
    rows = [line.split()[:4] for line in done.errors.partition("STEP ")[2].splitlines()[1:4]]
    assert rows == [["make", "(30)", "29", "success,"], ["make.3", "user", "(exit", "9)"], ["use", "skipped"]]
    status = run("status", "--config", str(path), "r", cwd=tmp_path).stdout.decode()
    assert [line.split()[0] for line in status.splitlines()[1:4]] == ["make", "make.3", "use"]
    logs = run("logs", "--config", str(path), "r", "--step", "make", cwd=tmp_path).stdout.decode()
    assert [line.split(" | ")[1] for line in logs.splitlines()] == [f"hi {number}" for number in range(30)]
    assert run("logs", "--config", str(path), "r", "--step", "make.4", cwd=tmp_path).stdout == b"hi 4\n"
    assert run("graph", "--config", str(path), cwd=tmp_path).stdout.decode() == "make × 30\n└─ use\n"


# -- in containers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def containers(tmp_path: Path) -> Iterator[None]:
    """Nothing of a run is left on the engine after its test."""
    import docker

    client = docker.from_env()
    yield
    left = client.containers.list(all=True, filters={"label": f"zen-runner.store={tmp_path / 'store'}"})
    for container in left:
        container.remove(force=True)
    client.close()
    assert left == []


@pytest.mark.engine
@pytest.mark.xdist_group("image")
@pytest.mark.usefixtures("cpu_image", "containers")
def test_containers_for_each_item_and_one_that_sees_what_they_wrote(tmp_path: Path) -> None:
    write(tmp_path, {"data/a.csv": "one", "data/b.csv": "two"})
    script = 'test "$ZEN_ATTEMPT" = 2 || test "$ZEN_ITEM_INDEX" = 0 || exit 4; cat "$0" > "$ZEN_OUTPUT_OUT"'
    steps = {
        "make": {
            "foreach": ["a", "b"],
            "inputs": {"file": "./data/{item}.csv"},
            "run": ["sh", "-c", script, "{inputs.file}"],
            "outputs": ["out"],
            **RETRY,
        },
        "use": reader(),
    }
    block = {"type": "orchestrator", "source": "docker", "args": {"max_parallel": 2, "network": "none"}}
    docker = {name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}
    done = go(tmp_path, steps, "--backend", json.dumps(block), env=docker)
    assert log(tmp_path, "use") == "read 00000000=one 00000001=two\n", done.errors
    assert [len(results(tmp_path, "r", f"make.{index}")) for index in range(2)] == [1, 2]
