"""Small configs that would come to much: each is refused, or read, within some seconds and 200 MB."""

from __future__ import annotations

import base64
import gzip
import json
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from backends import wire
from backends.config import bounds, document
from entrypoint.runtime import load
from tests.support.configs import problems, read
from tests.support.running import ROOT

STEPS = "version: 1\nsteps:\n"


def _foreach(items: str, rest: str = "run: [x]", name: str = "s0") -> str:
    return f"  {name}: {{{rest}, foreach: {items}}}\n"


def _list(item: str, count: int) -> str:
    return "[" + ",".join([item] * count) + "]"


def _json(**steps: object) -> str:
    return json.dumps({"version": 1, "steps": steps})


def _group(name: str) -> dict[str, object]:
    return {"run": ["x"], "foreach": {"of": name, "index": 0, "size": 10_000, "item": 0}}


TOO_MUCH = "too much in one config"
ROWS: dict[str, tuple[Callable[[], str], str]] = {  # what is said against each; nothing where it is read
    "aliased foreach": (
        lambda: STEPS + _foreach("&l " + _list("0", 10_000)) + "".join(_foreach("*l", name=f"t{n}") for n in range(90)),
        "there are more than 20,000 steps",
    ),
    "long args": (
        lambda: STEPS + _foreach(_list("0", 10_000), f"run: [x], args: {{a: {'x' * 100_000}}}"),
        "the resolved config has more than 16 MiB",
    ),
    "longer args": (
        lambda: STEPS + _foreach(_list("0", 10_000), f"run: [x], args: {{a: {'x' * 1_000_000}}}"),
        "the resolved config has more than 16 MiB",
    ),
    "placeholders of items": (
        lambda: STEPS + _foreach(_list("{a: 0}", 10_000), "run: " + _list('"{item.a}"', 1000)),
        "placeholders for its 10,000 items are to be filled in 10,000,000 times, and 250,000 is the most",
    ),
    "a long item often": (
        lambda: STEPS + _foreach("[" + "x" * 130_000 + "]", "run: " + _list('"{item}"', 20_000)),
        "the resolved config has more than 16 MiB",
    ),
    "escaped placeholders": (
        lambda: STEPS + _foreach(_list("0", 1000), "run: [x], args: {a: '" + "{{a.b}}" * 2000 + "'}"),
        "",
    ),
    "wrong placeholders": (lambda: STEPS + "  s: {run: ['" + "{t.values.b}" * 500_000 + "']}\n", "no step 't'"),
    "braces": (lambda: STEPS + "  s: {run: ['" + "{" * 4_000_000 + "']}\n", ""),
    "gathered often": (
        lambda: (
            STEPS
            + _foreach(_list("0", 10_000), "run: [x], outputs: [o]")
            + "  t: {run: [x], inputs: {"
            + ",".join(f"i{n}: s0.o" for n in range(1000))
            + "}}\n"
        ),
        "steps wait 10,000,000 times for members of foreach steps",
    ),
    "members that are not there": (
        lambda: '{"resolved":true,' + _json(**{f"s{n}.0": _group(f"s{n}") for n in range(10_000)})[1:],
        "some members are missing",
    ),
    "an image for all": (
        lambda: f"image: {'x' * 1_000_000}\n" + STEPS + "".join(f"  s{n}: {{run: [x]}}\n" for n in range(10_000)),
        "the resolved config has more than 16 MiB",
    ),
    "a backend for all": (
        lambda: (
            f"backends: {{b: {{type: training, source: 'a:b', args: {{x: {'x' * 1_000_000}}}}}}}\n"
            + STEPS
            + "".join(f"  s{n}: {{run: [x], backend: b}}\n" for n in range(10_000))
        ),
        "the resolved config has more than 16 MiB",
    ),
    "a variable often": (
        lambda: (
            "backends: {b: {type: training, source: 'a:b', args: {x: "
            + _list("'${env:LONG}'", 300_000)
            + "}}}\n"
            + STEPS
            + "  s: {run: [x]}\n"
        ),
        "stands for more than 16 MiB",
    ),
    "tags": (lambda: "".join(f"%TAG !a{n}! tag:x,2000:\n" for n in range(120_000)) + "---\nversion: 1\n", "begin with %TAG"),
    "tags with other ends of lines": (
        lambda: "\x85".join(f"%TAG !a{n}! tag:x,2000:" for n in range(120_000)) + "\n---\nversion: 1\n",
        "begin with %TAG",
    ),
    "lists in JSON": (lambda: '{"version":1,"a":[' + "[]," * 5_000_000 + "[]]}", TOO_MUCH),
    "lists in YAML": (lambda: "version: 1\na: [" + "[]," * 5_000_000 + "[]]", TOO_MUCH),
    "keys that are no strings": (lambda: "".join(f"{n}: 1\n" for n in range(300_000)), "more than 10,000 problems"),
    "keys": (lambda: "".join(f"k{n}: 1\n" for n in range(900_000)), TOO_MUCH),
    "keys in JSON": (lambda: "{" + ",".join(f'"k{n}":1' for n in range(900_000)) + "}", TOO_MUCH),
    "the same key": (lambda: "a: 1\n" * 300_000, "more than 10,000 problems"),
    "anchors": (lambda: "a:\n" + "".join(f"- &a{n} 1\n" for n in range(400_000)), "unknown key 'a'"),
    "steps": (lambda: STEPS + "".join(f" s{n}: {{run: [x]}}\n" for n in range(90_000)), "90,000 steps are more than the 20,000"),
    "steps in JSON": (lambda: _json(**{f"s{n}": {"run": ["x"]} for n in range(190_000)}), "190,000 steps are more than"),
    "packed": (
        lambda: "gz:" + base64.b64encode(gzip.compress(b'{"resolved":true,"a":[' + b"[]," * 22_000_000 + b"[]]}")).decode(),
        "more than 16 MiB",
    ),
    "packed, and less": (
        lambda: "gz:" + base64.b64encode(gzip.compress(b'{"resolved":true,"a":[' + b"[]," * 5_000_000 + b"[]]}")).decode(),
        TOO_MUCH,
    ),
}
PROGRAM = """
import sys
from backends.errors import ConfigError
from entrypoint.runtime import load
data = sys.stdin.buffer.read()
try:
    packed = data.startswith(b"gz:")
    source = load.find(None, {"ZEN_RUNNER_CONFIG": data.decode()}) if packed else load.Source(data, "cfg", "/", "p")
    load.load(source, environ={"LONG": "x" * 3000})
except ConfigError as error:
    print(str(error)[:2000].replace("\\n", " "))
# Not getrusage: its peak is also that of the test's process, which forked this one.
print(next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.processes
@pytest.mark.parametrize("name", ROWS)
def test_a_small_config_takes_little(name: str) -> None:
    make, says = ROWS[name]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))
        resource.setrlimit(resource.RLIMIT_CPU, (10, 10))  # seconds; 2 are the aim, and a machine may be slow

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)], input=make().encode(), cwd=ROOT, preexec_fn=limit, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    *said, peak = done.stdout.decode().splitlines()
    assert int(peak) < 200  # MB
    assert said == [] if not says else says in said[0]


def test_what_is_written_resolved_is_read_again() -> None:
    """Also at the bounds: with most edges, and with long items."""
    edges = (
        STEPS
        + _foreach(_list("0", 500), "run: [x], outputs: [o]")
        + _foreach(_list("0", 500), "run: [x], inputs: {i: s0.o}", "t")
    )
    items = STEPS + _foreach(_list("x" * 7_000, 1000), "run: [x, '{item}']")
    for text in (edges, items):
        resolved = read(text)
        data = wire.dumps(resolved).encode()
        assert len(data) > bounds.MAX_BYTES // 2
        assert load.read_resolved(data) == resolved
        assert not document.holds_too_much(data.decode())


def test_marks_in_text_are_no_values() -> None:
    text = json.dumps({"version": 1, "steps": {"a": {"run": ["x", '{:[,"' * 400_000]}}})
    assert bounds.is_too_heavy(text)
    assert read(text)["steps"]["a"]["run"][1] == '{:[,"' * 400_000


def test_a_few_tags_are_read(tmp_path: Path) -> None:
    assert read("%TAG !y! tag:yaml.org,2002:\n---\nversion: !y!int 1\nsteps: {a: {run: [x]}}\n")["version"] == 1


def test_a_number_of_many_digits_is_the_configs_fault() -> None:
    for digits in ("0x" + "f" * 3990, "0o" + "7" * 3999, "9" * 4001, "-" + "9" * 4000, "0x" + "f" * 30_000):
        for text in (f"{STEPS}  a: {{run: [x], args: {{n: {digits}}}}}\n", f"{STEPS}  a: {{run: [x], foreach: [{digits}]}}\n"):
            assert "a number of more than 4000 digits; put it in quotes" in problems(text)[0]
        assert "more than 4000 digits" in problems(STEPS + "  a: {run: [x]}", f"steps.a.args.n={digits}")[0]
    assert read(STEPS + "  a: {run: [x], args: {n: 0x" + "f" * 3000 + "}}\n")["steps"]["a"]["args"]["n"] == int("f" * 3000, 16)
