"""YAML and JSON become plain data with places; anything hostile is answered with a ConfigError."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.config import bounds, document
from backends.config.builder import Builder
from backends.config.events import json_events, yaml_events
from backends.errors import ConfigError
from tests.support.documents import BOMBS, DEEP, PLAIN, TEXT
from tests.support.running import ROOT


@pytest.fixture(params=["libyaml", "pure Python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both parsers that PyYAML may have."""
    if request.param == "pure Python":
        monkeypatch.setitem(sys.modules, "yaml._yaml", None)
    return str(request.param)


def data(text: str | bytes, origin: str = "cfg.yaml") -> Any:
    doc = document.parse(text if isinstance(text, bytes) else text.encode(), origin)
    assert doc.oddities == []
    return doc.data


def refusal(text: str | bytes, origin: str = "cfg.yaml") -> str:
    with pytest.raises(ConfigError) as caught:
        document.parse(text if isinstance(text, bytes) else text.encode(), origin)
    return str(caught.value)


def test_yaml_by_its_core_schema(parser: str) -> None:
    text = """
        retry: {limit: 2, on: [infra, oom]}
        words: [yes, No, on, OFF, y, 1_000, 12:30:45, 2026-01-31, 0b1, 1e, e1, +, '1', "true", .x, <<]
        numbers: [1, -7, +7, 010, 0o17, 0x1F, 1.5, -.5, 1., 1e3, 6.02e+23]
        constants: [true, False, TRUE, null, ~, Null]
        empty:
        text: |
          two
          lines
        tagged: [!!str 1, !!int 7, !!float 1, !!bool true, !!null ~, !!seq [], !!map {}]
    """
    assert data(textwrap.dedent(text)) == {
        "retry": {"limit": 2, "on": ["infra", "oom"]},
        "words": [
            "yes",
            "No",
            "on",
            "OFF",
            "y",
            "1_000",
            "12:30:45",
            "2026-01-31",
            "0b1",
            "1e",
            "e1",
            "+",
            "1",
            "true",
            ".x",
            "<<",
        ],
        "numbers": [1, -7, 7, 10, 15, 31, 1.5, -0.5, 1.0, 1000.0, 6.02e23],
        "constants": [True, False, True, None, None, None],
        "empty": None,
        "text": "two\nlines\n",
        "tagged": ["1", 7, 1.0, True, None, [], {}],
    }


def test_aliases_and_merge_keys(parser: str) -> None:
    text = """
        a: &a {x: 1, y: 2}
        b: {<<: *a, y: 3}
        c: {<<: [*a, {z: 4, x: 9}]}
        d: [*a, &s text, *s]
        &k key: *k
    """
    assert data(textwrap.dedent(text)) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 2, "z": 4},
        "d": [{"x": 1, "y": 2}, "text", "text"],
        "key": "key",
    }


def test_a_byte_order_mark_is_no_matter() -> None:
    assert data(b"\xef\xbb\xbfa: 1") == {"a": 1}
    assert data(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cfg.yaml: the config is empty; it needs at least 'version: 1' and 'steps:'"),
        ("# nothing\n", "cfg.yaml: the config is empty; it needs at least 'version: 1' and 'steps:'"),
        ("- a", "cfg.yaml:1: the top level is a list; a config is a mapping that starts with 'version: 1'"),
        ("hello", "cfg.yaml:1: the top level is a single value; a config is a mapping that starts with 'version: 1'"),
        ("a: 1\n---\nb: 2", "cfg.yaml:2: a second document starts here; a config is one document, so remove the '---'"),
        ("a: 1\nb: &x [*x]", "cfg.yaml:2: the alias *x is inside its own anchor; it would never end"),
        ("a: &x\n  b: *x", "cfg.yaml:2: the alias *x is inside its own anchor; it would never end"),
        ("a: *x", "cfg.yaml:1: the alias *x has no anchor &x before it"),
        ("a: 1\n? [b]\n: c", "cfg.yaml:2: a key is a list or mapping; keys are strings"),
        ("a: &x [1]\n*x : c", "cfg.yaml:2: a key is a list or mapping; keys are strings"),
        (b"a: 1\nb: \xe9", "cfg.yaml:2: not UTF-8 (byte 0xe9); save it as UTF-8"),
        ("a: é".encode("utf-16"), "cfg.yaml:1: not UTF-8 (byte 0xff); it looks like UTF-16; save it as UTF-8"),
        (b"\x1f\x8b\x08\x00", "cfg.yaml:1: not UTF-8 (byte 0x8b); it looks like gzip; unpack it first"),
        ("a: 1\nb: \0", "cfg.yaml:2: a NUL byte; a config is text"),
        (b" " * (bounds.MAX_BYTES + 1), "cfg.yaml: it has 16777217 bytes; a config has at most 16 MiB"),
    ],
)
def test_documents_that_cannot_be_read(parser: str, text: str | bytes, message: str) -> None:
    assert refusal(text) == message


@pytest.mark.parametrize("text", ["a: [1, 2\nb: 3", "a:\n\t- b", "a: 'x", "a: b: c", "%", "a: \x07", "{a: 1", "!<x", "a: !x!y z"])
def test_wrong_yaml_is_said_to_be_that(parser: str, text: str) -> None:
    assert refusal(text).startswith("cfg.yaml:")
    assert "not valid YAML: " in refusal(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n}', "cfg.json:2: not valid JSON: "),
        ("", "cfg.json: the config is empty"),
        ('{"a": tru}', "cfg.json:1: not valid JSON: "),
        ("a: 1", "cfg.json:1: not valid JSON: "),
        ('["a"]', "cfg.json:1: the top level is a list"),
        ('{"a": ' + "1" * 5000 + "}", "cfg.json: a number of more than 4000 digits; put it in quotes"),
        ('{"a": {"b": 1, "b": 2}, ]', "cfg.json:1: not valid JSON: "),
        ('{"a": {"b": 1, "b": 2}, "c": ' + "1" * 5000 + "}", "cfg.json: a number of more than 4000 digits; put it in quotes"),
    ],
)
def test_wrong_json(text: str, message: str) -> None:
    assert refusal(text, "cfg.json").startswith(message)


def test_flow_yaml_may_begin_like_json() -> None:
    assert data("{a: 1, b: [x]}") == {"a": 1, "b": ["x"]}


@pytest.mark.parametrize("name", DEEP)
def test_deep_nesting_is_refused(parser: str, name: str) -> None:
    assert "more than 100 levels deep; make it flatter" in refusal(DEEP[name])


def test_a_hundred_levels_are_read(parser: str) -> None:
    assert data("a: " + "[" * 99 + "]" * 99)["a"] == json.loads("[" * 99 + "]" * 99)
    assert data('{"a":' * 100 + "1" + "}" * 100)


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.large
def test_bombs_are_refused(name: str) -> None:
    assert "too much in one config: more than 1,000,000 values or 16 MiB of text once its aliases are written out" in refusal(
        BOMBS[name]
    )


@pytest.mark.processes
def test_hostile_documents_stay_within_bounds() -> None:
    """All of them, in a process that may use 512 MiB and a minute: none of them crashes it."""
    program = """
        import sys
        from backends.config import document
        from backends.errors import ConfigError
        from tests.support.documents import BOMBS, DEEP
        for name, text in {**BOMBS, **DEEP}.items():
            try:
                document.parse(text.encode(), "cfg.yaml")
            except ConfigError:
                print("refused", name)
    """

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(BOMBS) + len(DEEP)


def test_what_is_odd_is_noted_with_its_place_and_the_rest_is_read(parser: str) -> None:
    text = """\
        a: 1
        b: {c: 1, d: 2, c: 3}
        a: 4
        1: x
        true: y
        e: !!python/object/apply:os.system [id]
        f: !secret g
        h: [1, .inf, -.NaN]
        i: "\\0"
        j: !!int x
        k: {<<: 3}
    """
    doc = document.parse(textwrap.dedent(text).encode(), "cfg.yaml")
    assert doc.data["a"] == 1
    assert doc.data["b"] == {"c": 1, "d": 2}
    assert doc.oddities == [
        (("b", "c"), "the key 'c' is already on line 2; remove one of the two", (2, 17)),
        (("a",), "the key 'a' is already on line 1; remove one of the two", (3, 1)),
        (("1",), "the key 1 is not a string; put it in quotes", (4, 1)),
        (("true",), "the key true is not a string; put it in quotes", (5, 1)),
        (("e",), "the tag !!python/object/apply:os.system is not supported; a config is plain data, so remove the tag", (6, 4)),
        (("f",), "the tag !secret is not supported; a config is plain data, so remove the tag", (7, 4)),
        (("h", 1), "infinite and undefined numbers have no JSON form; put it in quotes if it is meant as text", (8, 8)),
        (("i",), "the text has a NUL character, which no argument or variable can hold; remove it", (9, 4)),
        (("j",), "this is not what its tag !!int says; remove the tag", (10, 4)),
        (("k",), "'<<' merges mappings only; write <<: *name of a mapping", (11, 9)),
    ]


def test_what_is_odd_in_json_is_noted_with_its_place() -> None:
    text = '{"a": 1,\n "b": {"c": 1,\n  "c": 2},\n "d\\u0000": 1,\n "e": ["\\ud800", 1e999, "\\ud83d\\ude00"]}'
    doc = document.parse(text.encode(), "cfg.json")
    assert doc.data == {"a": 1, "b": {"c": 1}, "e": [None, None, "😀"]}
    assert [(path, place) for path, _, place in doc.oddities] == [
        (("b", "c"), (3, 3)),
        (("?",), (4, 2)),
        (("e", 0), (5, 8)),
        (("e", 1), (5, 18)),
    ]
    assert doc.oddities[0][1] == "the key 'c' is already on line 2; remove one of the two"


def test_places(parser: str) -> None:
    text = "# top\nversion: 1\nsteps:\n  a:\n    run: [x,\n      y]\n"
    text += "    inputs: {b: c.d,\n             e: f.g}\n  h: &h {i: [1]}\n  j: *h\n"
    doc = document.parse(text.encode(), "cfg.yaml")
    wanted: dict[tuple[str | int, ...], tuple[int, int]] = {
        (): (2, 1),
        ("version",): (2, 1),
        ("steps", "a"): (4, 3),
        ("steps", "a", "run", 1): (6, 7),
        ("steps", "a", "inputs", "e"): (8, 14),
        ("steps", "a", "inputs", "missing", "below"): (7, 5),
        ("steps", "j", "i", 0): (10, 3),  # where the alias is
        ("nowhere",): (2, 1),
    }
    assert doc.places(wanted) == wanted


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(below for key, item in items for below in _paths(item, (*path, key)))]


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(TEXT, PLAIN, min_size=1, max_size=4))
def test_json_is_read_as_it_was_written_by_either_reader(value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False).encode()
    assert data(text, "cfg.json") == value
    doc = document.parse(text, "cfg.json")
    places = list(doc.places(_paths(value)).values())
    assert places == sorted(places)
    assert Builder().build(json_events(text.decode())) == value
    # The same again as YAML, which takes in JSON.
    assert Builder().build(yaml_events("# YAML\n" + text.decode())) == value


@settings(deadline=None, max_examples=150)
@given(
    st.binary(max_size=60)
    | st.text("{}[]:,-?&*!<>|'\"#% \nab1\t", max_size=60).map(str.encode)
    | st.text('{}[]":,1a', max_size=40).map(str.encode)
)
def test_any_bytes_are_data_or_a_config_error(text: bytes) -> None:
    for origin in ("cfg.yaml", "cfg.json"):
        try:
            assert isinstance(document.parse(text, origin).data, dict)
        except ConfigError as error:
            assert str(error).startswith(origin)


@pytest.mark.large
def test_five_megabytes_are_read() -> None:
    steps = "".join(f"  s{n}: {{run: [echo, '{'x' * 400}']}}\n" for n in range(12_000))
    text = "version: 1\nsteps:\n" + steps
    assert len(text) > 5_000_000
    doc = document.parse(text.encode(), "cfg.yaml")
    assert len(doc.data["steps"]) == 12_000
    assert doc.places([("steps", "s11999", "run", 1)]) == {("steps", "s11999", "run", 1): (12_002, 24)}


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), ("a", "a"), ("[a, 1]", ["a", 1]), ("{cpu: 2}", {"cpu": 2}), ("", None), ('"5"', "5"), ("a=b", "a=b")],
)
def test_one_value(text: str, value: object) -> None:
    assert document.parse_value(text) == value


@pytest.mark.parametrize("text", ["[a", "!!python/none x", "{a: 1, a: 2}", ".inf", "a: b: c", "\udcff"])
def test_one_value_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        document.parse_value(text)
