"""What becomes of `foreach:` when a config is resolved, and what is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from backends import graph, wire
from backends.config import placeholders, resolve
from backends.errors import ConfigError
from backends.store import open_store
from entrypoint.cli.groups import fold_members, summary_of_states
from entrypoint.cli.reporters.live import Live
from entrypoint.runtime import load
from tests.support.configs import problems, read
from tests.support.documents import PLAIN, accepts


def config(**steps: Any) -> dict[str, Any]:
    return {"version": 1, "steps": steps}


def done(document: dict[str, Any]) -> dict[str, Any]:
    """Resolve, and check what holds of every resolved config."""
    found = resolve.resolve(document, "/base", "cfg", {})
    text = wire.dumps(found)
    assert wire.dumps(resolve.resolve(wire.loads(text), "/elsewhere", "other", {"HOME": "/h"})) == text
    assert load.read_resolved(text.encode()) == found
    steps: dict[str, Any] = found["steps"]
    assert all(set(step["parents"]) <= set(steps) for step in steps.values())
    return steps


TEXT = """\
version: 1
steps:
  train:
    foreach: [{species: adelie, lr: 0.1}, {species: gentoo, lr: 2}]
    call: penguins.train:run
    inputs: {table: "./{item.species}.csv", raw: first.raw}
    args: {lr: "{item.lr}", all: "{item}", text: "lr={item.lr} {first.values.n} {{item}}", deep: ["{item.species}"]}
    env: {SPECIES: "{item.species}", ALL: "{item}"}
    outputs: [model]
    after: [first]
    retry: {limit: 5}
  first:
    run: [p]
    outputs: [raw]
  compare:
    run: [compare, "{inputs.models}", "{train.values.accuracy}"]
    inputs: {models: train.model}
  last:
    run: [p]
    after: [first, train]
"""


def test_a_step_for_each_item() -> None:
    steps = read(TEXT)["steps"]
    assert list(steps) == ["train.0", "train.1", "first", "compare", "last"]
    one, two = steps["train.0"], steps["train.1"]
    assert one["foreach"] == {"of": "train", "index": 0, "size": 2, "item": {"species": "adelie", "lr": 0.1}}
    assert two["foreach"] == {"of": "train", "index": 1, "size": 2, "item": {"species": "gentoo", "lr": 2}}
    assert one["args"] == {
        "lr": 0.1,
        "all": {"species": "adelie", "lr": 0.1},
        "text": "lr=0.1 {first.values.n} {{item}}",
        "deep": ["adelie"],
    }
    assert two["args"]["lr"] == 2 and isinstance(two["args"]["lr"], int)
    assert two["env"] == {"SPECIES": "gentoo", "ALL": '{"lr":2,"species":"gentoo"}'}
    assert two["inputs"] == {"table": {"url": "/base/gentoo.csv"}, "raw": {"step": "first", "output": "raw"}}
    for key in one.keys() - {"args", "env", "inputs", "foreach"}:
        assert one[key] == two[key]
    assert (one["parents"], one["retry"]["limit"]) == (["first"], 5)
    assert all(steps[name]["foreach"] is None for name in ("first", "compare", "last"))


def test_what_comes_after_waits_for_all_items() -> None:
    steps = read(TEXT)["steps"]
    members = ["train.0", "train.1"]
    gathered = {"models": {"gather": [{"step": name, "output": "model"} for name in members]}}
    assert (steps["compare"]["inputs"], steps["compare"]["parents"]) == (gathered, members)
    assert steps["compare"]["run"][2] == "{train.values.accuracy}"
    assert (steps["last"]["after"], steps["last"]["parents"]) == (["first", *members], ["first", *members])
    assert graph.groups(steps) == {"train": members}
    assert graph.named(steps) == ["train", "first", "compare", "last"]


def test_the_values_alone_make_all_items_parents() -> None:
    steps = done(config(a={"run": ["p"], "foreach": [1, 2]}, b={"run": ["{a.values.x}"]}))
    assert steps["b"]["parents"] == ["a.0", "a.1"]


def test_one_foreach_after_another() -> None:
    steps = done(
        config(
            a={"run": ["p"], "outputs": ["o"], "foreach": list(range(11))},
            b={"run": ["p", "{a.values.x}", "{item}"], "inputs": {"i": "a.o"}, "foreach": ["x", "y"]},
        )
    )
    assert [part["step"] for part in steps["b.1"]["inputs"]["i"]["gather"]] == [f"a.{index}" for index in range(11)]
    assert steps["b.1"]["parents"] == sorted(f"a.{index}" for index in range(11))
    assert steps["b.1"]["run"] == ["p", "{a.values.x}", "y"]


def test_items_from_an_arg() -> None:
    args = {"k": 1, "of": {"x": [{"n": 7}], "y": 2}}
    steps = done(config(a={"run": ["{item.n}", "{args.k}"], "args": args, "foreach": "{args.of.x}"}))
    assert steps["a.0"]["args"] == {"k": 1, "of": {"y": 2}}
    assert steps["a.0"]["run"] == ["7", "{args.k}"]


def test_items_and_values_of_options() -> None:
    assert list(read(TEXT, "steps.train.foreach=[{species: x, lr: 3}]")["steps"])[:2] == ["train.0", "first"]
    text = wire.dumps(read(TEXT))
    assert read(text, "steps.train.1.args.lr=9", "steps.train.1.timeout=3")["steps"]["train.1"]["args"]["lr"] == 9
    assert problems(text, "steps.train.7.timeout=3") == [
        "--set: steps.train.7.timeout: no step 'train' (did you mean 'train.1'?)"
    ]


def test_two_items_may_be_alike_and_an_item_may_be_anything() -> None:
    items: list[Any] = [None, None, True, 1.5, "é", [], {"a.b": 1}]
    steps = done(config(a={"run": ["p", "{item}"], "args": {"x": "{item}"}, "foreach": items}))
    assert [steps[f"a.{index}"]["args"]["x"] for index in range(len(items))] == items
    assert [steps[f"a.{index}"]["run"][1] for index in range(5)] == ["null", "null", "true", "1.5", "é"]


def test_names_of_items_are_no_names_of_steps() -> None:
    found = problems("version: 1\nsteps:\n  item: {run: [p]}\n  a.0: {run: [p]}\n")
    assert found[0].endswith("steps.item: a step can't be called item, which placeholders begin with; choose another name")
    assert "'a.0' is not a step's name" in found[1]


ITEMS = "[{lr: 1}, {l: 2}]"
WRONG = [
    ("foreach: []", "steps.s.foreach: it is empty, so the step would do nothing; give it an item, or remove the step"),
    ("foreach: 3", "steps.s.foreach: expected a list, or {args.NAME} that is one, got the number 3; write [3]"),
    ("foreach: abc", "steps.s.foreach: expected a list, or {args.NAME} that is one, got the string 'abc'; write [abc]"),
    ("foreach: {a: 1}", "steps.s.foreach: expected a list, or {args.NAME} that is one, got a mapping"),
    ('foreach: "{args.xz}"', "steps.s.foreach: {args.xz}: no arg 'xz'; there are xs, n"),
    ('foreach: "{args.n}"', "steps.s.foreach: {args.n} is the number 4; foreach takes a list"),
    ('foreach: "{b.values.x}"', "steps.s.foreach: expected a list, or {args.NAME} that is one, got the string '{b.values.x}'"),
    (
        'foreach: ["{args.n}"]',
        "steps.s.foreach[0]: {args.n}: items are plain values; write it beside {item}, or for the plain text {{args.n}}",
    ),
    ('foreach: ["${env:X}"]', "steps.s.foreach[0]: ${env:…} is read in store, image, code and backends' args only"),
    (
        'env: {A: "{item}"}',
        "steps.s.env.A: {item}: the step has no foreach, whose items this stands for; for the plain text write {{item}}",
    ),
    ('inputs: {x: "./{item}"}', "steps.s.inputs.x: {item}: the step has no foreach, whose items this stands for"),
    ('env: {A: "{item.lr}"}, foreach: ' + ITEMS, "steps.s.env.A: {item.lr}: item 1 has no 'lr' (did you mean 'l'?)"),
    ('env: {A: "{itme.lr}"}, foreach: [1]', "steps.s.env.A: {itme.lr}: this refers to nothing (did you mean 'item'?)"),
    ('env: {A: "{item.x}"}, foreach: [1]', "steps.s.env.A: {item.x}: item 0 has no 'x'; it is the number 1"),
    ('env: {A: "{item.2}"}, foreach: [[1, 2]]', "steps.s.env.A: {item.2}: item 0 has no '2'; it is a list"),
    (
        'env: {A: "{args.i.lr}"}, args: {i: "{item}"}, foreach: ' + ITEMS,
        "steps.s.env.A: {args.i.lr}: item 1 has no 'lr' (did you mean 'l'?)",
    ),
    ('env: {A: "{args.i.lr}"}, args: {i: "x{item}"}, foreach: ' + ITEMS, "steps.s.env.A: {args.i.lr}: no arg 'i.lr'"),
    (
        'env: {A: "{args.xs.0}"}, foreach: "{args.xs}"',
        "steps.s.env.A: {args.xs.0}: foreach goes through this list, and the step gets one item of it; write {item}",
    ),
    ('inputs: {x: "{item}/{args.n}"}, foreach: [1]', "steps.s.inputs.x: placeholders are not read here"),
    ('inputs: {x: "{item}"}, foreach: ["{{a.b}}"]', "steps.s.inputs.x: placeholders are not read here"),
    ('inputs: {x: "{item}"}, foreach: [a, "ftp://b"]', "steps.s.inputs.x: ftp:// can't be used here"),
    ('env: {A: "{s.values.x}"}, foreach: [1]', "steps.s.env.A: {s.values.x}: a step's own values are there only after it"),
    ("inputs: {x: {gather: [{step: b, output: o}]}}", "steps.s.inputs.x: an input is one of {from: STEP.OUTPUT} and {url: "),
    (
        'env: {A: "{item.l}{args.n}{item.r}"}, foreach: [{l: "{", r: "}"}]',
        "steps.s: the item puts braces around {args.n}, which would make it plain text",
    ),
    ("foreach: {of: s, index: 0, size: 1, item: 1}", "steps.s.foreach: expected a list"),
    ("foreach: {a: .inf}", "steps.s.foreach.a: infinite and undefined numbers have no JSON form"),
]


@pytest.mark.parametrize(("step", "says"), WRONG)
def test_a_foreach_that_is_wrong(step: str, says: str) -> None:
    args = "" if "args:" in step else ", args: {xs: [1, 2], n: 4}"
    found = problems(f"version: 1\nsteps:\n  b: {{run: [p], outputs: [o]}}\n  s: {{run: [p]{args}, {step}}}\n", X="x")
    assert len(found) == 1
    assert found[0].startswith(f"cfg.yaml:4: {says}")


def test_what_names_a_foreach_step_is_checked_as_for_any_other() -> None:
    found = problems("""\
        version: 1
        steps:
          a: {run: [p], outputs: [o], foreach: [1], after: [c]}
          b: {run: [p], inputs: {x: a.p, y: a.0.o}, after: [a.0]}
          c: {run: ["{a.values.x}"]}
    """)
    assert [line.partition(": ")[2] for line in found] == [
        "steps.a: steps need each other in a cycle: a → c → a; take one of these out of inputs, after or placeholders",
        "steps.b.inputs.x: step 'a' has no output 'p'; it has o",
        "steps.b.inputs.y: step 'a' has no output '0.o'; it has o",
        "steps.b.after[0]: no step 'a.0'; the other steps are a, c",
    ]


def test_too_many_items_and_too_many_edges() -> None:
    def says(**steps: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            resolve.resolve(config(**steps), "/", "x", {})
        return str(caught.value)

    assert says(a={"run": ["p"], "foreach": [0] * 10_001}) == (
        "steps.a.foreach: 10,001 items are more than the 10,000 that there may be; let each do more"
    )
    many = list(range(501))
    assert says(a={"run": ["p"], "foreach": many}, b={"run": ["p"], "foreach": many, "after": ["a"]}).startswith(
        "steps.b: with this one, steps wait 251,001 times for members of foreach steps, and 250,000 is the most; put one step"
    )
    assert "131,004 bytes as JSON are more than the 131,000 of $ZEN_ITEM" in says(a={"run": ["p"], "foreach": [1, "x" * 131_002]})


def test_a_resolved_config_that_was_tampered_with_is_refused() -> None:
    text = wire.dumps(read(TEXT))
    for path, value in (("index", 5), ("size", 3), ("of", "x"), ("item", None), ("more", 1)):
        whole = json.loads(text)
        foreach = whole["steps"]["train.1"]["foreach"]
        if value is None:
            del foreach[path]
        else:
            foreach[path] = value
        with pytest.raises(ConfigError, match="resolve the config again"):
            resolve.resolve(whole, "/", "x", {})
    whole = json.loads(text)
    del whole["steps"]["train.0"]
    with pytest.raises(ConfigError, match="of the foreach step 'train' some members are missing"):
        resolve.resolve(whole, "/", "x", {})


@pytest.mark.large
def test_ten_thousand_items() -> None:
    items = [{"text": "x" * 450, "n": index} for index in range(10_000)]
    make = {"run": ["p", "{item.text}"], "outputs": ["o"], "foreach": items}
    document = config(a=make, b={"run": ["p"], "inputs": {"i": "a.o"}})
    assert len(wire.dumps(document)) > 4_500_000
    steps = done(document)
    assert len(steps) == 10_001
    assert len(steps["b"]["inputs"]["i"]["gather"]) == 10_000
    assert graph.in_order(wire.loads(wire.dumps(steps)))[:12] == [f"a.{index}" for index in range(12)]


# -- an item's text is never read as a placeholder ---------------------------------------------------------------------

TRICKY = st.text(alphabet="{}ab.item", max_size=20)


@given(TRICKY)
def test_escaped_text_reads_as_it_was(text: str) -> None:
    assert placeholders.names(placeholders.escape(text)) == []
    assert placeholders.substitute(placeholders.escape(text), lambda way: "!") == text


@settings(max_examples=300)
@given(TRICKY, TRICKY, TRICKY, TRICKY)
def test_items_are_put_in_once(before: str, item: str, between: str, other: str) -> None:
    """Filled first with the item and then with the rest, text is as if all had been filled at once."""
    text = before + "{item.x}" + between + "{args.y}" + before

    def look_up(way: tuple[str, ...]) -> object:
        return item if way[0] == "item" else other if way[0] == "args" else "-".join(way)

    try:
        filled = placeholders.fill_text(text, "item", look_up)
    except ValueError:
        assume(False)
    assert placeholders.substitute_text(filled, look_up) == placeholders.substitute_text(text, look_up)


@settings(deadline=None)
@given(st.lists(PLAIN.map(lambda value: json.loads(json.dumps(value).replace("${env:", "$"))), min_size=1, max_size=4))
def test_any_items(items: list[Any]) -> None:
    document = config(a={"run": ["p", "{item}"], "args": {"x": "{item}", "y": ["-{item}-"]}, "foreach": items})
    try:
        steps = done(document)
    except ConfigError as error:
        assert "items are plain values" in str(error)
        return
    for index, step in enumerate(steps.values()):
        item = step["foreach"]["item"]
        assert step["foreach"]["index"] == index
        assert placeholders.substitute(step["args"]["x"], lambda way: "!") == item
        assert placeholders.substitute(step["args"]["y"], lambda way: "!") == [f"-{placeholders.render(item)}-"]
        assert placeholders.substitute(step["run"][1], lambda way: "!") == placeholders.render(item)
    assert accepts(document)


# -- how it looks ------------------------------------------------------------------------------------------------------


def test_a_large_group_is_one_row_and_its_failures() -> None:
    names = [f"a.{index}" for index in range(21)]
    rows: list[tuple[str, dict[str, Any]]] = [(name, {"class": "success"}) for name in names]
    rows += [("b", {"class": "waiting"}), ("c.0", {"class": "success"})]
    rows[7] = ("a.7", {"class": "user", "exit_code": 3})
    shown = fold_members(rows)
    assert [name for name, _ in shown] == ["a (21)", "a.7", "b", "c.0"]
    assert shown[0][1] == {"class": "user", "counts": "20 success, 1 user"}
    assert fold_members(rows[1:21]) == rows[1:21]


@pytest.mark.parametrize(
    ("states", "one", "text"),
    [
        (["success", "success"], "success", "2 success"),
        (["success", "waiting", "running"], "running", "1 success, 1 waiting, 1 running"),
        (["waiting", "oom", "running"], "oom", "1 waiting, 1 oom, 1 running"),
        (["skipped", "success"], "skipped", "1 skipped, 1 success"),
    ],
)
def test_many_states_as_one(states: list[str], one: str, text: str) -> None:
    assert summary_of_states(states) == (one, text)


def test_a_large_group_is_one_row_while_it_runs(tmp_path: Path) -> None:
    names = [*(f"a.{index}" for index in range(40)), "b"]
    live = Live({"steps": {name: {} for name in names}}, open_store(str(tmp_path)), "resume")
    try:
        live.report("step_started", step="a.3", attempt=1)
        live.report("step_finished", record={"step": "a.4", "class": "success", "exit_code": 0, "seconds": 1.0})
        assert list(live.shown_units(5)) == ["a", "b"]
        assert live.state_of("a") == ("running", "38 waiting, 1 running, 1 success")
        assert live.state_of("b") == ("waiting", "waiting")
    finally:
        live.close()
