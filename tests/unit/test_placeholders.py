"""Placeholders are found, put in without a shell, and never read twice."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.config import placeholders

VALUES: dict[tuple[str, ...], Any] = {
    ("inputs", "table"): "/data/table with space",
    ("args", "epochs"): 3,
    ("args", "rate"): 0.5,
    ("args", "fast"): True,
    ("args", "none"): None,
    ("args", "list"): [1, "b"],
    ("args", "tricky"): "{inputs.table} $(rm -rf) ${env:X}",
    ("clean-up", "values", "rows", "a_b"): {"n": 1},
}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("plain", []),
        ("{inputs.table}", ["inputs.table"]),
        ("--in={inputs.table}:{args.epochs}", ["inputs.table", "args.epochs"]),
        ("{clean-up.values.rows.a_b}", ["clean-up.values.rows.a_b"]),
        ("{2nd.values.items.0}", ["2nd.values.items.0"]),
        ("{{inputs.table}}", []),
        ("{{{inputs.table}}}", []),
        ("{{inputs.table}: 1}", ["inputs.table"]),
        ('{"a": {"b": {inputs.table}}}', ["inputs.table"]),
        ("{x} {} {.a} {a.} {a..b} { a.b } {a b.c} {0.5} {1.2.3} {é.b} {-a.b} {a.b", []),
        ("awk '{print $1.x}'", []),
        ("{" * 5000 + "a.b" + "}" * 5000, []),
        ("{a." + "b" * 400 + "}", []),
    ],
)
def test_names(text: str, found: list[str]) -> None:
    assert placeholders.names(text) == found


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ("{args.epochs}", 3),
        ("{args.list}", [1, "b"]),
        ("{args.none}", None),
        ("n={args.epochs}", "n=3"),
        ("{args.rate}{args.fast}{args.none}", "0.5truenull"),
        ("x{args.list}", 'x[1,"b"]'),
        ("x{clean-up.values.rows.a_b}", 'x{"n":1}'),
        ("{inputs.table}/x", "/data/table with space/x"),
        ("{{inputs.table}} {inputs.table}", "{inputs.table} /data/table with space"),
        ("{{inputs.table}}", "{inputs.table}"),
        ("{{{inputs.table}}}", "{{inputs.table}}"),
        ("{args.tricky}!", "{inputs.table} $(rm -rf) ${env:X}!"),
        ({"{args.epochs}": ["{args.epochs}", {"a": "{args.tricky}"}]}, {"{args.epochs}": [3, {"a": VALUES["args", "tricky"]}]}),
        (7, 7),
    ],
)
def test_substitute(value: object, result: object) -> None:
    assert placeholders.substitute(value, VALUES.__getitem__) == result


def test_in_text_a_lone_placeholder_is_rendered_too() -> None:
    assert placeholders.substitute_text("{args.epochs}", VALUES.__getitem__) == "3"
    assert placeholders.render([1]) == "[1]"


def test_what_the_lookup_raises_passes_through() -> None:
    with pytest.raises(KeyError):
        placeholders.substitute("{nobody.values.x}", VALUES.__getitem__)


@given(st.text(alphabet="{}ab.", max_size=40))
def test_one_more_pair_of_braces_makes_any_reference_plain_text(text: str) -> None:
    quoted = text
    for reference in set(placeholders.names(text)):
        quoted = quoted.replace("{" + reference + "}", "{{" + reference + "}}")
    seen: list[str] = []
    placeholders.substitute_text(quoted, lambda path: seen.append(".".join(path)))
    assert set(seen) <= set(placeholders.names(text))


@given(st.text())
def test_text_without_references_stays_as_it_is(text: str) -> None:
    plain = text.replace("}", ")")
    assert placeholders.substitute(plain, VALUES.__getitem__) == plain
