"""What is wrong with a config, where, and what to write instead; and what a right one becomes."""

from __future__ import annotations

import copy
import json
import textwrap
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from backends import base, outcome, registry, wire
from backends.config import document, resolve
from backends.errors import ConfigError
from entrypoint.runtime import load
from tests.unit.test_document import PLAIN
from tests.unit.test_spec import SAMPLE, accepts, plain

# The names that the sample uses, whatever this version has.
REGISTERED = {"orchestrator": ["kubernetes"], "processing": ["spark"], "training": ["vertex"]}


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Any:
    built_in, load_backend = registry.built_in, base.load
    registry.built_in = lambda role: sorted({*built_in(role), *REGISTERED[role]})
    # Their classes are not there, so their arguments can't be looked at.
    base.load = lambda block, role=None: load_backend(block, role) if block["source"] == "local" else None  # type: ignore[assignment, return-value]
    yield
    registry.built_in, base.load = built_in, load_backend


def resolved(text: str, *overrides: str, backend: str | None = None, **environ: str) -> dict[str, Any]:
    source = load.Source(textwrap.dedent(text).encode(), "cfg.yaml", "/base", "cfg")
    return load.load(source, overrides=overrides, backend=backend, environ=environ)[0]


def problems(text: str, *overrides: str, backend: str | None = None, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolved(text, *overrides, backend=backend, **environ)
    assert caught.value.exit_code == 78
    return str(caught.value).splitlines()


# -- one thing wrong at a time: a change to this config, and exactly what is said about it ---------------------------

GOOD = """\
version: 1
name: penguins
backend: laptop
backends:
  laptop: {type: orchestrator, source: local, args: {max_parallel: 4}}
secrets:
  API_KEY: {env: API_KEY}
env: {LEVEL: info}
steps:
  ingest:
    call: penguins.ingest:run
    outputs: [raw]
  clean:
    call: penguins.clean:run
    inputs: {raw: ingest.raw}
    outputs: [table]
  train:
    run: [python, train.py, "{inputs.table}", "{args.epochs}", "{clean.values.rows}"]
    inputs: {table: clean.table}
    args: {epochs: 3}
    outputs: [model]
    timeout: 2h
"""

BROKEN = [
    (
        "table: clean.table",
        "table: claen.table",
        "cfg.yaml:19: steps.train.inputs.table: no step 'claen' (did you mean 'clean'?)",
    ),
    (
        "table: clean.table",
        "table: clean.tabel",
        "cfg.yaml:19: steps.train.inputs.table: step 'clean' has no output 'tabel' (did you mean 'table'?)",
    ),
    (
        "raw: ingest.raw",
        "raw: data.csv",
        "cfg.yaml:15: steps.clean.inputs.raw: no step 'data'; for a file write ./data.csv",
    ),
    ("raw: ingest.raw", "raw: ingest", "cfg.yaml:15: steps.clean.inputs.raw: 'ingest' is not STEP.OUTPUT; write ingest.raw"),
    (
        "outputs: [raw]",
        "outputs: raw",
        "cfg.yaml:12: steps.ingest.outputs: expected a list of strings, got the string 'raw'; write [raw]",
    ),
    (
        'run: [python, train.py, "{inputs.table}", "{args.epochs}", "{clean.values.rows}"]',
        "run: python train.py --epochs 3",
        "cfg.yaml:18: steps.train.run: expected a list of strings, got the string 'python train.py --epochs 3'; "
        'write [python, train.py, --epochs, "3"]',
    ),
    ("name: penguins", "nmae: penguins", "cfg.yaml:2: nmae: unknown key 'nmae' (did you mean 'name'?)"),
    ("timeout: 2h", "timout: 2h", "cfg.yaml:22: steps.train.timout: unknown key 'timout' (did you mean 'timeout'?)"),
    (
        "timeout: 2h",
        "timeout: 2 hours",
        "cfg.yaml:22: steps.train.timeout: '2 hours' is not a duration; write seconds, or such as 90s, 1h30m, 2h or 500ms",
    ),
    (
        "timeout: 2h",
        "timeout: 0",
        "cfg.yaml:22: steps.train.timeout: a timeout of 0 would end every step at once; write null for no timeout",
    ),
    ("timeout: 2h", "cache: yes", "cfg.yaml:22: steps.train.cache: expected true or false, got the string 'yes'; write true"),
    (
        "timeout: 2h",
        "resources: {memory: 16, gpu: '1'}",
        "cfg.yaml:22: steps.train.resources.memory: 16 is only 16 bytes; write the unit too, such as 16Gi\n"
        "cfg.yaml:22: steps.train.resources.gpu: expected a whole number, got the string '1'; write 1 without quotes",
    ),
    (
        "timeout: 2h",
        "retry: {on: [config, om, infra], memory_factor: 0.5}",
        "cfg.yaml:22: steps.train.retry.on[0]: class 'config' is never retried, it would end the same way again; "
        "the classes are user, infra, timeout, oom, terminated\n"
        "cfg.yaml:22: steps.train.retry.on[1]: no class 'om' (did you mean 'oom'?)\n"
        "cfg.yaml:22: steps.train.retry.memory_factor: 0.5 is out of range; memory_factor is from 1 to 16",
    ),
    (
        "timeout: 2h",
        "retry: 3",
        "cfg.yaml:22: steps.train.retry: expected a mapping, got the number 3; write such as {limit: 2, on: [infra, oom]}",
    ),
    (
        "timeout: 2h",
        "backend: laptop",
        "cfg.yaml:22: steps.train.backend: the backend 'laptop' is of type orchestrator; "
        "here goes one of type processing or training",
    ),
    (
        "timeout: 2h",
        "beam: a:b",
        "cfg.yaml:22: steps.train.beam: a step has exactly one of call, run, beam, spark, and this has run and beam; keep one",
    ),
    (
        "timeout: 2h",
        "zzzzz: [1]",
        "cfg.yaml:22: steps.train.zzzzz: unknown key 'zzzzz'; the keys here are call, run, beam, spark, args, inputs, "
        "outputs, foreach, after, as, backend, image, resources, retry, timeout, grace_period, cache, env",
    ),
    (
        "timeout: 2h",
        "after: [train, evaluate]",
        "cfg.yaml:22: steps.train.after[0]: a step can't wait for itself; remove it\n"
        "cfg.yaml:22: steps.train.after[1]: no step 'evaluate'; the other steps are ingest, clean",
    ),
    ("timeout: 2h", "run: [x]", "cfg.yaml:22: steps.train.run: the key 'run' is already on line 18; remove one of the two"),
    (
        "{args.epochs}",
        "{args.epoch}",
        "cfg.yaml:18: steps.train.run[3]: {args.epoch}: no arg 'epoch' (did you mean 'epochs'?)",
    ),
    (
        "{inputs.table}",
        "{inputs.tabel}",
        "cfg.yaml:18: steps.train.run[2]: {inputs.tabel}: no input 'tabel' (did you mean 'table'?)",
    ),
    (
        "{clean.values.rows}",
        "{claen.values.rows}",
        "cfg.yaml:18: steps.train.run[4]: {claen.values.rows}: no step 'claen' (did you mean 'clean'?); "
        "for the plain text write {{claen.values.rows}}",
    ),
    (
        "{clean.values.rows}",
        "{input.table}",
        "cfg.yaml:18: steps.train.run[4]: {input.table}: this refers to nothing (did you mean 'inputs'?); "
        "for the plain text write {{input.table}}",
    ),
    (
        "call: penguins.clean:run",
        "call: penguins.clean.run",
        "cfg.yaml:14: steps.clean.call: 'penguins.clean.run' is not package.module:function (did you mean 'penguins.clean:run'?)",
    ),
    (
        "call: penguins.ingest:run",
        "after: [train]\n    call: penguins.ingest:run",
        "cfg.yaml:10: steps.ingest: steps need each other in a circle: ingest → train → clean → ingest; "
        "take one of these out of inputs, after or placeholders",
    ),
    ("backend: laptop", "backend: labtop", "cfg.yaml:3: backend: no orchestrator backend 'labtop' (did you mean 'laptop'?)"),
    (
        "source: local,",
        "source: lokal,",
        "cfg.yaml:5: backends.laptop.source: no orchestrator backend 'lokal' (did you mean 'local'?)",
    ),
    (
        "max_parallel: 4",
        "max_paralel: 4",
        "cfg.yaml:5: backends.laptop.args.max_paralel: OrchestratorLocalBackend takes no such argument "
        "(did you mean 'max_parallel'?); it takes max_parallel, keep_going",
    ),
    (
        "{env: API_KEY}",
        "sk-12345",
        "cfg.yaml:7: secrets.API_KEY: expected a mapping; a secret is a reference, never the value itself; "
        "write such as {env: API_KEY}",
    ),
    (
        "LEVEL: info",
        "DB_PASSWORD: hunter2",
        "cfg.yaml:8: env.DB_PASSWORD: the name looks secret; write it under `secrets` at the top: "
        "DB_PASSWORD: {env: DB_PASSWORD}",
    ),
    (
        "LEVEL: info",
        'LEVEL: "${env:HOME}"',
        "cfg.yaml:8: env.LEVEL: ${env:…} is read in store, image, code and backends' args only; give the step the "
        "variable through `env`, or `secrets` if it is secret",
    ),
    ("LEVEL: info", "DEBUG: true", 'cfg.yaml:8: env.DEBUG: expected a string or a number, got true; write it in quotes: "true"'),
    ("version: 1", "version: 2", "cfg.yaml:1: version: the number 2 is not known here; write 1"),
    ("version: 1", "version: '1'", "cfg.yaml:1: version: expected 1, got the string '1'; write 1 without quotes"),
    ("version: 1\n", "", "cfg.yaml:1: version: missing; add version: 1"),
    (
        "  ingest:\n",
        "  Ingest:\n",
        "cfg.yaml:10: steps.Ingest: 'Ingest' is not a step's name (lower-case letters, digits, '-' and '_', a letter or digit "
        "at both ends, at most 63); write such as ingest\n"
        "cfg.yaml:15: steps.clean.inputs.raw: no step 'ingest' (did you mean 'Ingest'?)",
    ),
]


def test_the_good_one_is_good() -> None:
    assert resolved(GOOD)["steps"]["train"]["parents"] == ["clean"]


@pytest.mark.parametrize(("old", "new", "message"), BROKEN, ids=[f"{row[1].strip()[:40]}" for row in BROKEN])
def test_broken_configs(old: str, new: str, message: str) -> None:
    assert GOOD.count(old) == 1
    assert problems(GOOD.replace(old, new)) == message.splitlines()


def test_all_problems_come_in_one_pass_in_the_documents_order() -> None:
    found = problems("""\
        version: 1
        timeout: never
        steps:
          a: {call: m.f:g, outputs: x, outputs: [y]}
          b:
            run: [p, 3, "{inputs.nope}", "{a.values.n}"]
            inputs: {i: a.z, j: gone.z, k: broken.z}
          broken: 7
          c: {}
          1: {run: [p]}
          d: {run: !!python/none [p], env: {X: .inf}}
        secrts: {}
    """)
    assert found == [
        "cfg.yaml:2: timeout: 'never' is not a duration; write seconds, or such as 90s, 1h30m, 2h or 500ms",
        "cfg.yaml:4: steps.a.outputs: expected a list of strings, got the string 'x'; write [x]",
        "cfg.yaml:4: steps.a.outputs: the key 'outputs' is already on line 4; remove one of the two",
        'cfg.yaml:6: steps.b.run[1]: expected a string, got the number 3; write it in quotes: "3"',
        "cfg.yaml:6: steps.b.run[2]: {inputs.nope}: no input 'nope'; this step has i, j, k",
        "cfg.yaml:7: steps.b.inputs.j: no step 'gone'; for a file write ./gone.z",
        "cfg.yaml:8: steps.broken: expected a mapping, got the number 7; write such as {run: [echo, hello]}",
        "cfg.yaml:9: steps.c: nothing says what the step does; add one of call, run, beam and spark, "
        "such as call: module:function",
        "cfg.yaml:10: steps.1: the key 1 is not a string; put it in quotes",
        "cfg.yaml:11: steps.d.run: the tag !!python/none is not supported; a config is plain data, so remove the tag",
        "cfg.yaml:11: steps.d.env.X: infinite and undefined numbers have no JSON form; put it in quotes if it is meant as text",
        "cfg.yaml:12: secrts: unknown key 'secrts' (did you mean 'secrets'?)",
    ]


def test_the_same_in_json() -> None:
    text = json.dumps(document.parse(GOOD.encode(), "x.yaml").data, indent=1).replace("clean.table", "claen.table")
    with pytest.raises(ConfigError) as caught:
        load.load(load.Source(text.encode(), "cfg.json", "/base"), environ={})
    line = next(n for n, row in enumerate(text.splitlines(), 1) if "claen.table" in row)
    assert str(caught.value) == f"cfg.json:{line}: steps.train.inputs.table: no step 'claen' (did you mean 'clean'?)"


def test_without_a_document_problems_have_no_lines() -> None:
    with pytest.raises(ConfigError, match=r"^steps: there are no steps; add one, such as hello: \{run: \[echo, hello\]\}$"):
        resolve.resolve({"version": 1, "steps": {}}, "/", "x", {})


def test_every_circle_is_named_once() -> None:
    steps = {"a": "c", "b": "a", "c": "b", "x": "y", "y": "x", "free": "a"}
    text = "version: 1\nsteps:\n" + "".join(f"  {name}: {{run: [p], after: [{after}]}}\n" for name, after in steps.items())
    assert [row.partition("circle: ")[2].partition(";")[0] for row in problems(text)] == ["a → c → b → a", "x → y → x"]


def test_ten_thousand_steps_in_a_row_and_in_a_circle() -> None:
    steps = {f"s{n}": {"run": ["p"], "after": [f"s{n - 1}"] if n else []} for n in range(10_000)}
    config = resolve.resolve({"version": 1, "steps": steps}, "/", "x", {})
    assert config["steps"]["s9999"]["parents"] == ["s9998"]
    steps["s0"] = {"run": ["p"], "after": ["s9999"]}
    with pytest.raises(ConfigError, match="circle"):
        resolve.resolve({"version": 1, "steps": steps}, "/", "x", {})
    wrong = {f"s{n}": {"run": ["p"], "after": [f"t{n}"]} for n in range(10_000)}  # a hint for each would take minutes
    with pytest.raises(ConfigError) as caught:
        resolve.resolve({"version": 1, "steps": wrong}, "/", "x", {})
    assert len(caught.value.problems) == 10_000


# -- what may not leak -----------------------------------------------------------------------------------------------

LITERALS = [
    "API_KEY: hunter2",
    "API_KEY: {value: hunter2}",
    "API_KEY: {hunter2: x}",
    "API_KEY: {env: 'hunter2 hunter2'}",
    "API_KEY: {kubernetes: hunter2}",
    "API_KEY: {aws: hunter2}",
    "API_KEY: {gcp: hunter2}",
    "API_KEY: {env: A, file: hunter2}",
    "API_KEY: [hunter2]",
    "API_KEY: {env: [hunter2]}",
    "API_KEY: {env: {hunter2: hunter2}}",
    "API_KEY: !hunter {a: hunter2}",
    "API_KEY: &a [hunter2, *a]",
]


@pytest.mark.parametrize("literal", LITERALS)
def test_a_literal_secret_is_refused_and_not_repeated(literal: str) -> None:
    text = f"version: 1\nsteps: {{a: {{run: [p]}}}}\nsecrets:\n  {literal}\n"
    assert "hunter2" not in "\n".join(problems(text))
    assert "hunter2" not in "\n".join(problems("version: 1\nsteps: {a: {run: [p]}}", "secrets=" + "{" + literal + "}"))


def test_a_secret_in_env_is_refused_and_not_repeated() -> None:
    for name in ("API_KEY", "token", "Db-Passwd".replace("-", "_"), "AWS_SECRET_ACCESS_KEY", "DBPASSWORD", "MY_CREDENTIALS"):
        found = problems(f"version: 1\nsteps: {{a: {{run: [p], env: {{{name}: hunter2}}}}}}")
        assert len(found) == 1
        assert "hunter2" not in found[0]
        assert f"write it under `secrets` at the top: {name}: {{env: {name}}}" in found[0]
    for name in ("MAX_TOKENS", "TOKENIZERS_PARALLELISM", "MONKEY", "KEYBOARD", "LEVEL"):
        assert resolved(f"version: 1\nsteps: {{a: {{run: [p], env: {{{name}: x}}}}}}")


SECRETS = """\
version: 1
steps: {a: {run: [p]}}
secrets:
  A: {env: OTHER}
  B: {file: secrets/b}
  C: {kubernetes: my-secret/key}
  D: {aws: "arn:aws:secretsmanager:eu-west-1:123:secret:d-AbCdEf"}
  E: {gcp: projects/p/secrets/e/versions/latest}
"""


def test_references_to_secrets() -> None:
    assert resolved(SECRETS)["secrets"] == {
        "A": {"env": "OTHER"},
        "B": {"file": "/base/secrets/b"},
        "C": {"kubernetes": "my-secret/key"},
        "D": {"aws": "arn:aws:secretsmanager:eu-west-1:123:secret:d-AbCdEf"},
        "E": {"gcp": "projects/p/secrets/e/versions/latest"},
    }


# -- ${env:NAME} -----------------------------------------------------------------------------------------------------


def test_variables_of_the_environment_where_they_cannot_leak() -> None:
    config = resolved(
        """\
        version: 1
        store: s3://${env:BUCKET}/${env:PREFIX:-runs}
        image: registry/${env:IMAGE}:${env:TAG:-latest}
        code: ${env:CODE}
        backend: {type: orchestrator, source: kubernetes, args: {namespace: "${env:NS}", list: ["${env:NS}", 3]}}
        backends: {s: {type: processing, source: spark, args: {master: "${env:NS}"}}}
        steps: {a: {run: [p], image: "${env:IMAGE}", backend: {type: training, source: vertex, args: {project: "${env:NS}"}}}}
        """,
        BUCKET="b",
        IMAGE="img",
        TAG="",
        CODE="src",
        NS="${env:BUCKET}",
    )
    assert config["store"] == "s3://b/runs"
    assert config["image"] == "registry/img:latest"
    assert config["code"] == "/base/src"
    assert config["backend"]["args"] == {"namespace": "${env:BUCKET}", "list": ["${env:BUCKET}", 3]}  # read once only
    assert config["backends"]["s"]["args"] == {"master": "${env:BUCKET}"}
    assert config["steps"]["a"]["image"] == "img"
    assert config["steps"]["a"]["backend"]["args"] == {"project": "${env:BUCKET}"}
    assert resolve.resolve(config, "/elsewhere", "x", {"BUCKET": "no"}) == config


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("${env:NOPE}", "$NOPE is not set; set it, or give a default: ${env:NOPE:-default}"),
        ("${env:API_TOKEN}", "${env:API_TOKEN} looks secret, and a config is stored and printed; use `secrets`"),
        ("${env:NOPE", "'${env:' is followed by a variable's name and '}'; write ${env:NAME} or ${env:NAME:-default}"),
        ("${env:}", "'${env:' is followed by a variable's name and '}'; write ${env:NAME} or ${env:NAME:-default}"),
    ],
)
def test_variables_that_are_refused(value: str, says: str) -> None:
    text = f"version: 1\nsteps: {{a: {{run: [p]}}}}\nstore: ./x{value}\n"
    assert problems(text, API_TOKEN="s3cret") == [f"cfg.yaml:3: store: {says}"]


@pytest.mark.parametrize(
    "part", ['run: [p, "${env:X}"]', 'args: {a: ["${env:X}"]}', 'inputs: {i: "/${env:X}"}', 'env: {E: "${env:X}"}']
)
def test_variables_are_read_nowhere_else(part: str) -> None:
    kind = "" if part.startswith("run") else "run: [p], "
    found = problems(f"version: 1\nsteps: {{a: {{{kind}{part}}}}}", X="x")
    assert len(found) == 1
    assert "${env:…} is read in store, image, code and backends' args only" in found[0]


# -- what a right one becomes ----------------------------------------------------------------------------------------


def test_the_sample_of_the_documentation() -> None:
    config = resolved(SAMPLE)
    assert (config["store"], config["base"], config["code"]) == ("/base/runs", "/base", "/base")
    assert config["backend"] == {"type": "orchestrator", "source": "local", "args": {"max_parallel": 4}}
    assert config["steps"]["train"] == {
        "run": ["python", "train.py", "--data", "{inputs.table}", "--out", "{outputs.model}", "--epochs", "{args.epochs}"],
        "args": {"epochs": 3},
        "inputs": {"table": {"step": "clean", "output": "table"}},
        "outputs": ["model"],
        "after": [],
        "parents": ["clean"],
        "as": "path",
        "backend": {
            "type": "training",
            "source": "vertex",
            "args": {"project": "p", "region": "europe-west1", "accelerator": "NVIDIA_TESLA_T4"},
        },
        "image": "zen-runner:cpu",
        "resources": {"cpu": 4.0, "memory": 16 << 30, "gpu": 1, "gpu_memory": None, "cuda": None},
        "retry": {"limit": 2, "on": ["infra", "oom", "terminated"], "backoff": 1.0, "memory_factor": 2.0},
        "timeout": 7200.0,
        "grace_period": 30.0,
        "cache": False,
        "env": {},
        "foreach": None,
    }
    assert config["steps"]["clean"]["as"] == "url"
    assert resolve.resolve(config, "/other", "other", {}) == config


def test_the_least_that_is_a_config() -> None:
    config = resolved("version: 1\nsteps: {a: {run: [p]}}")
    assert config["name"] == "cfg"
    assert config["backend"] == {"type": "orchestrator", "source": "local", "args": {}}
    assert config["steps"]["a"]["retry"]["on"] == list(outcome.RETRIED_BY_DEFAULT)
    assert config["steps"]["a"]["resources"] == {"cpu": None, "memory": None, "gpu": 0, "gpu_memory": None, "cuda": None}
    assert config["steps"]["a"]["timeout"] is None


def test_settings_at_the_top_are_each_steps_default() -> None:
    config = resolved("""\
        version: 1
        image: mine
        timeout: 1h
        grace_period: 5
        cache: true
        retry: {limit: 5, on: [oom], backoff: 3s}
        resources: {cpu: 500m, memory: 1Gi}
        steps:
          a: {run: [p]}
          b: {run: [p], image: b, timeout: null, grace_period: 1m, cache: false,
              retry: {limit: 0}, resources: {memory: null, gpu: 1}}
    """)
    a, b = config["steps"]["a"], config["steps"]["b"]
    assert (a["image"], a["timeout"], a["grace_period"], a["cache"]) == ("mine", 3600.0, 5.0, True)
    assert a["retry"] == {"limit": 5, "on": ["oom"], "backoff": 3.0, "memory_factor": 1.0}
    assert a["resources"] == {"cpu": 0.5, "memory": 1 << 30, "gpu": 0, "gpu_memory": None, "cuda": None}
    assert (b["image"], b["timeout"], b["grace_period"], b["cache"]) == ("b", None, 60.0, False)
    assert b["retry"] == {"limit": 0, "on": ["oom"], "backoff": 3.0, "memory_factor": 1.0}
    assert b["resources"] == {"cpu": 0.5, "memory": None, "gpu": 1, "gpu_memory": None, "cuda": None}


def test_inputs() -> None:
    inputs = resolved(
        """\
        version: 1
        steps:
          a: {run: [p], outputs: [o]}
          b:
            run: [p]
            inputs:
              step: a.o
              long: {from: a.o}
              file: ./x/../y.csv
              absolute: /data/z.csv
              home: ~/h.csv
              url: s3://bucket/k.csv
              web: {url: "https://example.org/x?y=1"}
              local: file:///data/a%20b.csv
              plain: {url: x.csv}
          c: {run: [p], as: url, inputs: {any: "hdfs://host/x"}}
        """,
        HOME="/home/me",
    )["steps"]["b"]["inputs"]
    assert inputs == {
        "step": {"step": "a", "output": "o"},
        "long": {"step": "a", "output": "o"},
        "file": {"url": "/base/y.csv"},
        "absolute": {"url": "/data/z.csv"},
        "home": {"url": "/home/me/h.csv"},
        "url": {"url": "s3://bucket/k.csv"},
        "web": {"url": "https://example.org/x?y=1"},
        "local": {"url": "/data/a b.csv"},
        "plain": {"url": "/base/x.csv"},
    }


def test_parents_come_from_inputs_after_and_values() -> None:
    step = """\
        run: [p, "{v.values.x}", "{{w.values.x}}"]
        args: {deep: [{a: "{u.values}"}]}
        env: {E: "{t.values.a.b.0}", N: 3}
        inputs: {i: s.o}
        after: [r, s, r]
    """
    others = "".join(f"  {name}: {{run: [p], outputs: [o]}}\n" for name in "rstuvw")
    config = resolved("version: 1\nsteps:\n" + others + "  x:\n" + textwrap.indent(textwrap.dedent(step), "    "))
    assert config["steps"]["x"]["parents"] == ["r", "s", "t", "u", "v"]
    assert config["steps"]["x"]["after"] == ["r", "s"]
    assert config["steps"]["x"]["env"] == {"E": "{t.values.a.b.0}", "N": "3"}


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("run: []", "steps.x.run: it is empty; write a program and its arguments, such as [python, train.py]"),
        ('run: [""]', "steps.x.run[0]: the program's name is empty; write such as python"),
        ("call: train.py", "steps.x.call: 'train.py' is not package.module:function (did you mean 'train:py'?)"),
        (
            "call: x/train.py",
            "steps.x.call: 'x/train.py' is not package.module:function; to run a script: run: [python, x/train.py]",
        ),
        ("beam: a:b, as: path", "steps.x.as: beam steps read and write the store themselves, so they get URLs; remove `as`"),
        ("run: [p], as: file", "steps.x.as: the string 'file' is not known here; write path or url"),
        (
            "run: [p], outputs: [a, A]",
            "steps.x.outputs[1]: 'A' and 'a' differ only in case, and both would be $ZEN_OUTPUT_A; rename one of the two",
        ),
        ("run: [p], outputs: [a, a]", "steps.x.outputs[1]: the output 'a' is there twice; remove one of the two"),
        (
            "run: [p], outputs: [a-b]",
            "steps.x.outputs[0]: 'a-b' is not a name for an output; use letters, digits and _, such as a_b",
        ),
        (
            "run: [p], inputs: {1st: ./a}",
            "steps.x.inputs.1st: '1st' is not a name for an input; use letters, digits and _, such as input_1st",
        ),
        (
            "call: a:b, outputs: [class]",
            "steps.x.outputs[0]: 'class' is a word of Python's own, so no function can take it; write class_",
        ),
        ("call: a:b, args: {a-b: 1}", "steps.x.args.a-b: 'a-b' can't be a function's argument; use letters, digits and _"),
        (
            "call: a:b, args: {t: 1}, outputs: [t]",
            "steps.x.args.t: 't' is also an output, and the function gets both under one name; rename one of the two",
        ),
        ("run: [p], inputs: {i: {}}", "steps.x.inputs.i: an input is one of {from: STEP.OUTPUT} and {url: PATH-OR-URL}"),
        (
            "run: [p], inputs: {i: 'ftp://h/x'}",
            "steps.x.inputs.i: ftp:// can't be used here; write a path, or s3://, gs://, az://, https://",
        ),
        (
            "run: [p], inputs: {i: 'https://me:pw@h/x'}",
            "steps.x.inputs.i: the URL has a password in it, and a config is stored and printed; remove it",
        ),
        (
            "run: [p], inputs: {i: './{args.a}'}",
            "steps.x.inputs.i: placeholders are not read here; an input is a fixed path or URL, or another step's output",
        ),
        ("run: [p], inputs: {i: x.o}", "steps.x.inputs.i: a step can't wait for itself; remove it"),
        (
            "run: [p, '{x.values.a}']",
            "steps.x.run[1]: {x.values.a}: a step's own values are there only after it; use another step's",
        ),
        (
            "run: [p, '{other.rows}']",
            "steps.x.run[1]: {other.rows}: write {other.values.NAME} for what step 'other' returned, "
            "or name its output in inputs",
        ),
        ("run: [p, '{inputs.i.x}'], inputs: {i: ./a}", "steps.x.run[1]: {inputs.i.x}: an input has no parts; write {inputs.i}"),
        ("run: [p], args: {a: 1, b: '{args.a}'}", "steps.x.args.b: {args.a}: args can't be made of args; write the value"),
        ("run: [p, '{args.a.c}'], args: {a: {b: 1}}", "steps.x.run[1]: {args.a.c}: no arg 'a.c'; there are b"),
        ("run: [p], env: {ZEN_X: 1}", "steps.x.env.ZEN_X: names that begin with ZEN_ are zen-runner's own; choose another"),
        ("run: [p], env: {a-b: 1}", "steps.x.env.a-b: 'a-b' is not a variable's name; use letters, digits and _, such as A_B"),
        ("run: [p], image: a b", "steps.x.image: 'a b' is not an image; write such as zen-runner:cpu"),
        ("run: [p], retry: {limit: 101}", "steps.x.retry.limit: 101 is out of range; limit is from 0 to 100"),
        ("run: [p], resources: {gpu: -1}", "steps.x.resources.gpu: -1 is out of range; gpu is from 0 to 1024"),
        (
            "run: [p], resources: {gpu: 1, gpu_memory: 16}",
            "steps.x.resources.gpu_memory: 16 is only 16 bytes; write the unit too, such as 16Gi",
        ),
        (
            "run: [p], resources: {gpu_memory: 16Gi}",
            "steps.x.resources.gpu_memory: this says what a GPU must have, and the step asks for none; add gpu: 1",
        ),
        (
            "run: [p], resources: {gpu: 1, cuda: 12.10}",
            'steps.x.resources.cuda: 12.1 can be 12.1 or 12.10, which are the same number; write it in quotes: "12.1" or "12.10"',
        ),
        (
            "run: [p], resources: {gpu: 1, cuda: twelve}",
            "steps.x.resources.cuda: 'twelve' is not a CUDA version; write such as \"12.4\"",
        ),
        (
            "run: [p], resources: {gpu: 1, cudas: 12}",
            "steps.x.resources.cudas: unknown key 'cudas' (did you mean 'cuda'?)",
        ),
        ("run: [p], grace_period: 99999d", "steps.x.grace_period: '99999d' is too long; the longest is 3650d"),
        ("run: [p], backend: saprk", "steps.x.backend: no processing or training backend 'saprk' (did you mean 'spark'?)"),
        (
            "run: [p], backend: {type: orchestrator, source: local}",
            "steps.x.backend.type: orchestrator is not right here; write processing or training",
        ),
        (
            "run: [p], backend: {type: training, source: spark}",
            "steps.x.backend.source: no training backend 'spark'; the one of that name is of type processing",
        ),
        (
            "run: [p], backend: {type: training, source: 'a:b c'}",
            "steps.x.backend.source: 'a:b c' is neither a short name nor package.module:Class",
        ),
        ("run: [p], parents: [other]", "steps.x.parents: this key is written by `zen-runner resolve` only; write `after`"),
        ("run: [p], args: null", "steps.x.args: expected a mapping, got nothing (null); write such as {epochs: 3}"),
    ],
)
def test_a_step_that_is_wrong(step: str, says: str) -> None:
    text = f"version: 1\nsteps:\n  other: {{run: [p], outputs: [o]}}\n  x: {{{step}}}\n"
    assert problems(text) == [f"cfg.yaml:4: {says}"]


@pytest.mark.parametrize("name", ["inputs", "outputs", "args"])
def test_a_step_may_not_be_called_like_a_placeholders_beginning(name: str) -> None:
    assert "which placeholders begin with" in problems(f"version: 1\nsteps: {{{name}: {{run: [p]}}}}")[0]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("store: ''", "store: it is empty; write a directory such as ./runs, or a URL such as s3://bucket/prefix"),
        ("store: ftp://h/x", "store: ftp:// can't be used here; write a path, or s3://, gs://, az://"),
        ("store: https://h/x", "store: https:// can't be used here; write a path, or s3://, gs://, az://"),
        ("store: file://x", "store: a file URL has three slashes: write file:///x"),
        ("code: s3://b/x", "code: code is a directory on this machine; write a path, or null if it is baked into the image"),
        ("env: {X: '{inputs.a}'}", "env.X: placeholders belong to a step; move this variable to the step's own env"),
        ("base: /x", "base: this key is written by `zen-runner resolve` only; remove it"),
        ("image: null", "image: expected a string, got nothing (null); write such as zen-runner:cpu"),
        (
            "backends: {L: {type: orchestrator, source: local}}",
            "backends.L: 'L' is not a backend's name (lower-case letters, digits, '-' and '_', "
            "a letter or digit at both ends, at most 63); write such as l",
        ),
        ("backends: {l: {type: orchestrator}}", "backends.l.source: missing; add source: local"),
        (
            "backends: {l: {type: orchestrater, source: local}}",
            "backends.l.type: the string 'orchestrater' is not known here (did you mean 'orchestrator'?)",
        ),
    ],
)
def test_a_top_level_key_that_is_wrong(line: str, says: str) -> None:
    assert problems(f"version: 1\nsteps: {{a: {{run: [p]}}}}\n{line}\n") == [f"cfg.yaml:3: {says}"]


def test_a_default_name_is_made_fit() -> None:
    for given_name, name in (
        ("My Pipeline", "my-pipeline"),
        ("é", "pipeline"),
        ("", "pipeline"),
        ("x" * 80, "x" * 63),
        ("-a_", "a"),
    ):
        assert resolve.resolve({"version": 1, "steps": {"a": {"run": ["p"]}}}, "/", given_name, {})["name"] == name


# -- --set and --backend ---------------------------------------------------------------------------------------------


def test_overrides() -> None:
    config = resolved(
        GOOD,
        "steps.train.args.epochs=5",
        "steps.train.args.opt.lr=0.1",
        "steps.train.run.1=other.py",
        "steps.train.run.2={outputs.model}",
        "steps.train.retry.limit=7",
        "steps.train.resources={cpu: 2}",
        "steps.extra={run: [p, a=b]}",
        "env.LEVEL=",
        "env.LEVEL='='",
        "store=./elsewhere",
    )
    train = config["steps"]["train"]
    assert train["args"] == {"epochs": 5, "opt": {"lr": 0.1}}
    assert train["run"][:3] == ["python", "other.py", "{outputs.model}"]
    assert train["retry"]["limit"] == 7
    assert train["resources"]["cpu"] == 2.0
    assert config["steps"]["extra"]["run"] == ["p", "a=b"]
    assert config["env"] == {"LEVEL": "="}
    assert config["store"] == "/base/elsewhere"


def test_an_override_changes_one_of_two_aliases() -> None:
    text = "version: 1\nsteps:\n  a: &a {run: [p], args: {n: 1}}\n  b: *a\n"
    config = resolved(text, "steps.b.args.n=2")
    assert [config["steps"][name]["args"]["n"] for name in "ab"] == [1, 2]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("steps.trian.args.epochs=5", "steps.trian.args.epochs: no step 'trian' (did you mean 'train'?)"),
        ("steps.train.agrs.epochs=5", "steps.train.agrs: unknown key 'agrs' (did you mean 'args'?)"),
        (
            "steps.train.timeout=x",
            "steps.train.timeout: 'x' is not a duration; write seconds, or such as 90s, 1h30m, 2h or 500ms",
        ),
        ("steps.train.timeout=[", "steps.train.timeout: the value can't be read: not valid YAML: "),
        ("steps.train.run.9=x", "steps.train.run.9: steps.train.run is a list of 5; write a position from 0 to 4"),
        ("steps.train.inputs.table=claen.table", "steps.train.inputs.table: no step 'claen' (did you mean 'clean'?)"),
        ("steps.train.timeout.x=1", "steps.train.timeout.x: steps.train.timeout is a single value, so nothing in it can be set"),
        (
            "backend.args.max_parallel=2",
            "backend.args.max_parallel: backend is a single value, so nothing in it can be set; it names a backend, so set "
            "backends.laptop.args.max_parallel",
        ),
        (
            "backends.labtop.args.max_parallel=2",
            "backends.labtop.args.max_parallel: no backend 'labtop' (did you mean 'laptop'?)",
        ),
        ("nmae=x", "nmae: unknown key 'nmae' (did you mean 'name'?)"),
    ],
)
def test_overrides_that_are_wrong(override: str, says: str) -> None:
    found = problems(GOOD, override)
    assert len(found) == 1
    assert found[0].startswith(f"--set: {says}")


def test_another_backend() -> None:
    assert resolved(SAMPLE, backend="cluster")["backend"]["source"] == "kubernetes"
    assert resolved(SAMPLE, backend="local")["backend"] == {"type": "orchestrator", "source": "local", "args": {}}
    assert problems(SAMPLE, backend="clutser") == [
        "--backend: backend: no orchestrator backend 'clutser' (did you mean 'cluster'?)"
    ]


def test_overrides_of_a_resolved_config() -> None:
    text = wire.dumps(resolved(GOOD))
    assert resolved(text, "steps.train.timeout=5s", backend="local")["steps"]["train"]["timeout"] == 5.0
    assert problems(text, "image=x") == [
        "--set: image: this config is resolved, so each step has its image; set steps.NAME.image"
    ]


# -- properties ------------------------------------------------------------------------------------------------------

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,8}[a-z0-9])?", fullmatch=True).filter(
    lambda name: name not in ("inputs", "outputs", "args")
)
LETTERS = st.from_regex(r"[a-z]{1,4}[0-9]", fullmatch=True)
DURATIONS = st.one_of(st.floats(0.001, 1e6), st.integers(1, 10**6), st.from_regex(r"[1-9][0-9]{0,2}(ms|s|m|h|d)", fullmatch=True))


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """A right config: steps that only look back, with anything else that a config may have."""
    steps: dict[str, Any] = {}
    for name in draw(st.lists(NAMES, min_size=1, max_size=5, unique=True)):
        done = list(steps)
        outputs = draw(st.lists(LETTERS.map("o{}".format), max_size=3, unique=True))
        step: dict[str, Any] = {
            draw(st.sampled_from(["call", "beam", "spark"])): "package.module:function",
            "outputs": outputs,
            "args": draw(st.dictionaries(LETTERS.map("a{}".format), PLAIN.map(_without_references), max_size=3)),
        }
        sources = [f"{other}.{output}" for other in done for output in steps[other]["outputs"]]
        places = st.sampled_from([*sources, "./x.csv", "s3://b/k", {"url": "data"}])
        step["inputs"] = draw(st.dictionaries(LETTERS.map("i{}".format), places, max_size=3))
        if done:
            step["after"] = draw(st.lists(st.sampled_from(done), max_size=2))
            step["env"] = {"E": f"{{{draw(st.sampled_from(done))}.values.x}}"}
        for key, values in {
            "timeout": DURATIONS | st.none(),
            "grace_period": DURATIONS,
            "cache": st.booleans(),
            "retry": st.fixed_dictionaries(
                {},
                optional={"limit": st.integers(0, 9), "on": st.lists(st.sampled_from(outcome.RETRIABLE)), "backoff": DURATIONS},
            ),
            "resources": st.fixed_dictionaries(
                {},
                optional={
                    "cpu": st.none() | st.floats(0.001, 99) | st.just("250m"),
                    "memory": st.none() | st.integers(1 << 20, 1 << 50) | st.just("1.5Gi"),
                    "gpu": st.integers(0, 8),
                },
            )
            | st.fixed_dictionaries(
                {
                    "gpu": st.integers(1, 8),
                    "gpu_memory": st.none() | st.sampled_from(["16Gi", 1 << 30]),
                    "cuda": st.none() | st.sampled_from(["12.10", 12.4, 13, "11.8"]),
                }
            ),
        }.items():
            if draw(st.booleans()):
                step[key] = draw(values)
        steps[name] = step
    return {"version": 1, "steps": steps, "store": draw(st.sampled_from(["./runs", "gs://b", "/abs/../x"]))}


def _without_references(value: Any) -> Any:
    return json.loads(json.dumps(value).replace("{", "(").replace("}", ")")) if isinstance(value, str) else _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_references(item) for key, item in value.items()}
    return [_without_references(item) for item in value] if isinstance(value, list) else value


@settings(deadline=None, max_examples=80)
@given(configs())
def test_resolving_twice_gives_the_same_bytes(config: dict[str, Any]) -> None:
    once = resolve.resolve(config, "/base", "name", {})
    text = wire.dumps(once)
    assert wire.dumps(resolve.resolve(once, "/elsewhere", "other", {"HOME": "/h"})) == text
    assert wire.dumps(resolve.resolve(wire.loads(text), "/elsewhere", "other", {})) == text
    assert load.load(load.Source(text.encode(), "x", "/"), environ={})[0] == once
    assert load._resolved(text.encode()) is not None
    assert accepts(config)


def _nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([path] if path else []), *(below for key, item in items for below in _nodes(item, (*path, key)))]


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_whatever_is_put_anywhere_the_answer_is_a_config_or_its_problems(data: st.DataObject) -> None:
    """And what is accepted, the schema accepts too."""
    config = copy.deepcopy(plain(SAMPLE))
    path = data.draw(st.sampled_from(_nodes(config)))
    value = data.draw(PLAIN | st.sampled_from([10**400, -1, "x.y", "{a.b}", "${env:", {"on": 1}, [None], 1e300]))
    target = config
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    try:
        done = resolve.resolve(config, "/base", "name", {})
    except ConfigError as error:
        assert error.problems
        assert all(problem.message for problem in error.problems)
        return
    assert wire.dumps(resolve.resolve(done, "/other", "other", {})) == wire.dumps(done)
    assume("args" not in path)
    assert accepts(config)
