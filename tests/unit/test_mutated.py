"""Configs that something changed at random: each is read, or refused with what is wrong, and nothing else happens."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from backends import wire
from backends.config import document
from backends.errors import ConfigError, UsageError
from backends.store.local import LocalStore
from entrypoint import cli
from entrypoint.cli import terminal
from entrypoint.cli.reporters.lines import Lines
from entrypoint.cli.verbs import graph
from entrypoint.runtime import load
from tests.support.configs import problems
from tests.support.documents import SAMPLE, plain
from tests.support.running import ROOT

TEXTS = [
    re.sub(r"(kubernetes|vertex), args: {.*?}", "local", SAMPLE),
    *(path.read_text() for path in sorted(ROOT.glob("examples/*/*.yaml"))),
]
TEXTS += [next(block for block in (ROOT / "docs/config.md").read_text().split("```") if "steps:" in block).removeprefix("yaml\n")]
ODD: list[Any] = [
    *(None, True, False, 0, -1, 7, 1e308, 10**30, float("inf"), float("nan"), 2**63, [], {}, [[]], {"": None}, {"a": {"b": []}}),
    *(
        "",
        " ",
        "x",
        "{item}",
        "{args.x}",
        "{{",
        "{steps.values.x}",
        "${env:HOME}",
        "${env:",
        "\0",
        "\x1b[31m",
        "\ud800",
        "é" * 300,
    ),
    *("http://h:99999/x", "s3://", "a:b", "a.b", "../..", "~", "local[*]", "spark", "direct", "1h", "1Gi", "-", "resolved", "0"),
    *(
        {"of": "a", "index": 0, "size": 1, "item": 0},
        {"b": float("inf")},
        {"type": "processing", "source": "spark", "args": {"conf": 7}},
    ),
    *(
        {"type": "processing", "source": "direct", "args": {"options": 7}},
        {"step": "a", "output": "b"},
        {"gather": 1},
        {"url": 3},
    ),
]


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [*((value, key) for key in keys), *(place for key in keys for place in _places(value[key]))]


def _mutate(data: Any, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        places = _places(data)
        if not places:
            return
        holder, key = chance.choice(places)
        other, another = chance.choice(places)
        match chance.randrange(5):
            case 0:
                del holder[key]
            case 1:
                holder[key] = json.loads(json.dumps(other[another]))
            case 2 if isinstance(holder, dict):
                holder[str(chance.choice(ODD))[:40]] = holder.pop(key)
            case _:
                holder[key] = copy.deepcopy(chance.choice(ODD))  # the next change may go into it


def _garble(text: str, chance: random.Random) -> bytes:
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(chance.choice((0, 0, 0, 1, 3))):
        at = chance.randrange(len(data) + 1)
        data[at : at + chance.randrange(4)] = chance.choice(
            (b"", b"\xff", b"\0", b"&a ", b"*a", b"<<: ", b"- ", b": ", b"{", b"]", b"\n", b"!!int ")
        )
    return bytes(data)


def _only_refused(read: Callable[[], object]) -> Any:
    try:
        return read()
    except (ConfigError, UsageError) as error:
        str(error)
        return None


def _one(number: int) -> None:
    chance = random.Random(number)  # noqa: S311 - so that a failure can be repeated
    data = json.loads(json.dumps(plain(chance.choice(TEXTS))))
    if chance.random() < 0.3:
        data = json.loads(wire.dumps(_resolved(data)))
    _mutate(data, chance)
    as_json = chance.random() < 0.5
    text = json.dumps(data) if as_json else yaml.safe_dump(data, allow_unicode=True)
    way = ".".join(chance.choices(["steps", "train", "args", "x", "0"], k=chance.randrange(1, 4)))
    overrides = [f"{way}=0x{'f' * chance.choice((2, 3990))}"]
    source = load.Source(_garble(text, chance), "cfg.json" if as_json else "cfg.yaml", "/base", "p")
    environ = {"HOME": "/h"}
    given = overrides if chance.random() < 0.2 else []
    read = _only_refused(lambda: load.load(source, overrides=given, environ=environ, in_full=True))
    if read is None:
        return
    config, sha = read
    again = load.Source(wire.dumps(config).encode(), "again.json", "/elsewhere", "q")
    assert load.load(again, environ={}) == (config, sha)
    assert list(graph.tree(config)) and list(graph.mermaid(config))


def _resolved(data: Any) -> Any:
    return load.load(load.Source(json.dumps(data).encode(), "cfg.json", "/base", "p"), environ={"HOME": "/h"})[0]


@pytest.mark.large
def test_mutated_configs_are_read_or_refused() -> None:
    for number in range(2_000):
        try:
            _one(number)
        except Exception as error:
            raise AssertionError(f"the config of number {number}") from error


@pytest.mark.slow
def test_many_mutated_configs_are_read_or_refused() -> None:
    for number in range(2_000, 40_000):
        try:
            _one(number)
        except Exception as error:
            raise AssertionError(f"the config of number {number}") from error


@pytest.mark.parametrize(
    ("backend", "says"),
    [
        ("{type: processing, source: spark, args: {conf: 7}}", "args.conf: Expected `object | null`, got `int`"),
        ("{type: processing, source: spark, args: {packages: x}}", "args.packages: Expected `array | null`, got `str`"),
        ("{type: processing, source: direct, args: {options: 7}}", "args.options: Expected `object | null`, got `int`"),
        ("{type: processing, source: direct, args: {options: true}}", "args.options: Expected `object | null`, got `bool`"),
    ],
)
def test_an_argument_of_the_wrong_type(backend: str, says: str) -> None:
    assert says in problems(f"version: 1\nbackends: {{b: {backend}}}\nsteps: {{a: {{run: [x]}}}}")[0]


def test_an_infinite_foreach_is_one_problem() -> None:
    said = problems("version: 1\nsteps: {a: {run: [x], foreach: {b: .inf}}}")
    assert len(said) == 1 and "infinite" in said[0]


@pytest.mark.parametrize("verb", ["validate", "graph", "render"])
def test_a_config_that_only_says_it_is_resolved(verb: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = _resolved(
        {"version": 1, "steps": {"a": {"run": ["x"], "outputs": ["o"]}, "b": {"run": ["x"], "inputs": {"i": "a.o"}}}}
    )
    for step, key, value in (
        ("b", "parents", ["c"]),
        ("b", "parents", []),
        ("b", "inputs", {"i": {"step": "c", "output": "o"}}),
        ("b", "inputs", {"i": {"gather": 1}}),
        ("b", "inputs", {"i": {"gather": [{"step": "a"}]}}),
    ):
        config = json.loads(json.dumps(whole))
        config["steps"][step][key] = value
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config))
        code = cli.main([verb, "--config", str(path), *(["--backend", "docker"] if verb == "render" else [])])
        errors = capfd.readouterr().err
        assert "unexpected" not in errors
        assert code == 78 or verb != "validate", errors


CONTROLS = "\x1b[31m\x07\x9b1m\x7f\r\b\u202e"


def test_nothing_raw_reaches_a_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = {
        "version": 1,
        "steps": {f"a{CONTROLS}": {"run": ["x"], "args": {CONTROLS: f"{{x{CONTROLS}}}"}, f"k{CONTROLS}\nforged": 1}},
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    for words in (["validate"], ["validate", "--output", "json"], ["graph"], ["run"], ["validate", "--set", f"x{CONTROLS}"]):
        cli.main([*words, "--config", str(path)])
        out, err = capfd.readouterr()
        for char in CONTROLS:
            assert char not in out + err or (char.isprintable() and char != "\u202e"), words
        assert "\nforged" not in err


def test_a_byte_order_mark_is_no_part_of_a_config() -> None:
    for text in (b"version: 1\r\nsteps:\r\n  a:\r\n    run: [x]\r\n", b'{"version": 1, "steps": {"a": {"run": ["x"]}}}'):
        for origin in ("p.yaml", "p.json") if text[:1] == b"{" else ("p.yaml",):
            assert document.parse(b"\xef\xbb\xbf" + text, origin).data == {"version": 1, "steps": {"a": {"run": ["x"]}}}


def test_what_others_say_is_shown_escaped() -> None:
    shown = r"\x1b[31m\x07\x9b1m\x7f\r\x08\u202e"
    assert terminal.escaped(CONTROLS + "\n\té") == shown + "\n\té"
    assert terminal.escaped(CONTROLS + "\n\té", one_line=True) == shown + r"\n\té"
    assert terminal.paint(CONTROLS, "user", True) == f"\x1b[31m{shown}\x1b[0m"
    assert terminal.columns([("a\nb", CONTROLS), ("c", "d")]) == [rf"a\nb  {shown}", "c     d"]
    record = {"step": f"s{CONTROLS}", "class": "user", "exit_code": 1, "message": CONTROLS, "seconds": 1.0}
    written: list[bytes] = []
    lines = Lines({"steps": {}}, LocalStore("/nowhere"), "", write=lambda _, data: written.append(data))
    lines.report("step_finished", record=record)
    lines.report("step_retry", record=record, delay=1.0)
    text = b"".join(written).decode()
    assert text.count(shown) == 4 and "\x1b" not in text
