"""Two rows of the contract for launchers that can only set variables: arguments at run time, and retries of whatever failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import configs, running


def run(folder: Path, step: dict[str, Any], run_id: str = "r", **env: str) -> running.Ended:
    path = configs.config(folder, code=None, steps={"s": step})
    return running.run("--config", str(path), cwd=folder, ZEN_RUNNER_STEP="s", ZEN_RUNNER_RUN_ID=run_id, env=env)


SHOW = {
    "run": ["sh", "-c", 'printf %s "$1" > "$ZEN_VALUES"', "sh", '{"n":{args.n},"rate":{args.rate},"more":{args.more}}'],
    "args": {"n": 3, "rate": 0.5, "more": {"k": [1, None]}, "text": "t"},
}


def values(folder: Path, run_id: str = "r") -> Any:
    return running.results(folder, run_id, "s")[-1]["values"]


def test_an_argument_is_taken_from_the_environment_in_its_own_type(tmp_path: Path) -> None:
    given = {"ZEN_RUNNER_ARG_n": "5.0", "ZEN_RUNNER_ARG_rate": "2", "ZEN_RUNNER_ARG_more": '{"x": "{args.n}"}'}
    ended = run(tmp_path, SHOW, **given)
    assert ended.code == 0, ended.errors
    # Braces in a value are text.
    assert values(tmp_path) == {"n": 5, "rate": 2.0, "more": {"x": "{args.n}"}}
    assert [type(values(tmp_path)[name]) for name in ("n", "rate")] == [int, float]


@pytest.mark.parametrize("text", ["007", "true", "a: b # c", '{"x": 1}', "{args.n} {inputs.none} {{args.n}}", "", " two\nlines "])
def test_an_argument_that_is_text_is_taken_as_it_is(tmp_path: Path, text: str) -> None:
    step = {"run": ["sh", "-c", 'printf %s "$1"', "sh", "{args.text}"], "args": {"text": "t", "n": 3}}
    ended = run(tmp_path, step, ZEN_RUNNER_ARG_text=text)
    assert (ended.code, ended.stdout.decode()) == (0, text), ended.errors


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("ZEN_RUNNER_ARG_m", "5", "step 's' has no argument 'm'; it has n, rate, more, text"),
        ("ZEN_RUNNER_ARG_n", "five", "$ZEN_RUNNER_ARG_n is 'five', which is not JSON; the config has 3 there"),
        ("ZEN_RUNNER_ARG_n", "5.5", "of another type than the config's 3"),
        ("ZEN_RUNNER_ARG_n", "true", "of another type than the config's 3"),
        ("ZEN_RUNNER_ARG_more", "[]", "of another type than the config's {"),
    ],
)
def test_an_argument_that_does_not_fit_is_a_config_error(tmp_path: Path, variable: str, text: str, words: str) -> None:
    ended = run(tmp_path, SHOW, **{variable: text})
    assert (ended.code, ended.record["class"]) == (78, "config")
    assert words in ended.record["message"]


def test_the_record_names_the_config_that_was_given(tmp_path: Path) -> None:
    run(tmp_path, SHOW, "one")
    run(tmp_path, SHOW, "two", ZEN_RUNNER_ARG_n="5")
    assert len({running.results(tmp_path, name, "s")[0]["config"] for name in ("one", "two")}) == 1
    assert len(list((tmp_path / "store" / "configs").iterdir())) == 1


def test_another_argument_is_another_cache_key(tmp_path: Path) -> None:
    step = {**SHOW, "cache": True}
    for run_id, number in (("one", "5"), ("two", "5"), ("three", "6")):
        assert run(tmp_path, step, run_id, ZEN_RUNNER_ARG_n=number).code == 0
    cached = [running.results(tmp_path, run_id, "s")[0]["cached_from"] for run_id in ("one", "two", "three")]
    assert [bool(entry) for entry in cached] == [False, True, False]
    assert values(tmp_path, "three")["n"] == 6


def test_a_replay_sets_them_again(tmp_path: Path) -> None:
    run(tmp_path, SHOW, ZEN_RUNNER_ARG_text="a b", ZEN_RUNNER_ARG_n="5")
    ended = running.run("replay", str(tmp_path / "store" / "runs" / "r" / "s" / "1"), cwd=tmp_path)
    assert b"--env=ZEN_RUNNER_ARG_n=5 '--env=ZEN_RUNNER_ARG_text=a b'" in ended.stdout, ended.errors


def failing(on: list[str]) -> dict[str, Any]:
    return {"run": ["sh", "-c", "echo ran; exit 7"], "retry": {"limit": 2, "on": on}}


BLIND = {"ZEN_RUNNER_RETRY": "any", "ZEN_RUNNER_ATTEMPT": "launch-1"}


def test_a_launcher_that_retries_anything_does_not_repeat_what_retry_does_not_name(tmp_path: Path) -> None:
    first, second = (run(tmp_path, failing(["infra"]), **BLIND) for _ in range(2))
    assert (first.code, second.code) == (7, 7)
    assert (first.stdout, second.stdout) == (b"ran\n", b"")
    assert second.record == first.record
    assert len(running.results(tmp_path, "r", "s")) == 1


@pytest.mark.parametrize(
    ("on", "env"),
    [
        (["user"], BLIND),
        (["infra"], {**BLIND, "ZEN_RUNNER_ATTEMPT": "launch-2"}),
        (["infra"], {**BLIND, "KFP_RETRY_INDEX": "0"}),
        (["infra"], {"ZEN_RUNNER_ATTEMPT": "launch-1"}),
    ],
    ids=["the class is named", "another launch", "a person's retry", "a launcher that reads exit statuses"],
)
def test_and_repeats_what_should_be(tmp_path: Path, on: list[str], env: dict[str, str]) -> None:
    run(tmp_path, failing(on), **BLIND)
    assert run(tmp_path, failing(on), **env).stdout == b"ran\n"
    assert [record["attempt"] for record in running.results(tmp_path, "r", "s")] == [1, 2]
