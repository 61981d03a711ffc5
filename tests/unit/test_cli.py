"""The command line as a process: every verb, its help, its errors and its exit status."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends import wire
from backends.outcome import TABLE
from backends.store import open_store
from entrypoint.cli.command_line import parse, parser_of, split_verb
from entrypoint.cli.verbs import VERBS, graph
from entrypoint.cli.verbs.replay import docker_run
from tests.support import running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes

PIPELINE = """\
version: 1
name: demo
code: .
steps:
  ingest:
    run: [sh, -c, 'echo reading; seq 3 >"$ZEN_OUTPUT_RAW"; echo "{\\"rows\\": 3}" >"$ZEN_VALUES"']
    outputs: [raw]
  clean:
    run: [sh, -c, 'echo careful >&2; cp "$ZEN_INPUT_RAW" "$ZEN_OUTPUT_TABLE"']
    inputs: {raw: ingest.raw}
    outputs: [table]
  note:
    run: [sh, -c, 'printf "no end of line"']
    after: [ingest]
  train:
    run: [sh, -c, 'echo training; test -e good || { echo bad luck >&2; exit 3; }']
    inputs: {table: clean.table}
    after: [note]
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A directory with a pipeline whose last step fails until there is a file called ``good``."""
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    return tmp_path


def start(*args: str, cwd: Path | None = None, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "entrypoint", *args],
        cwd=cwd,
        env={**os.environ, "ZEN_RUNNER_PYTHON": sys.executable, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def zen(*args: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    process = start(*args, cwd=cwd, **environ)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err, err
    return subprocess.CompletedProcess(args, process.returncode, out, err)


def last_words(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    words = json.loads(done.stderr.splitlines()[-1])
    assert isinstance(words, dict)
    return words


def fresh() -> str:
    """Return a run id of its own: what marks a run's processes must not be another test's."""
    return f"r{os.urandom(4).hex()}"


def run_id(done: subprocess.CompletedProcess[str]) -> str:
    run = last_words(done)["run"]
    assert isinstance(run, str)
    return run


# -- help, errors and completion


def test_help_of_everything() -> None:
    top = zen("--help")
    assert top.returncode == 0
    for name, verb in VERBS.items():
        assert re.search(rf"^ +{name} +{re.escape(verb.purpose[:30])}", top.stdout, re.M)
    for row in TABLE:
        assert re.search(rf"^ +{row.code} +{row.name} +{re.escape(row.meaning)}$", top.stdout, re.M)
    assert zen("help").stdout == zen("-h").stdout == top.stdout


@pytest.mark.parametrize("name", VERBS)
def test_help_of_a_verb_has_examples_that_parse(name: str) -> None:
    parser = parser_of(name)
    text = parser.format_help()
    assert all(len(line) < 120 for line in text.splitlines())
    assert VERBS[name].examples
    for command, _ in VERBS[name].examples:
        assert f"\n  {command}\n" in text + "\n"
        inner = re.search(r"zen-runner [^)>]*", command)
        assert inner is not None
        verb, words = split_verb(shlex.split(inner.group().rstrip('"'))[1:])
        assert verb == name
        parse(verb, words)
    for action in parser._actions:
        assert action.help, f"{name}: {action.dest} has no help"


def test_help_and_version_as_a_process() -> None:
    assert zen("run", "--help").stdout == zen("help", "run").stdout == parser_of("run").format_help()
    assert zen("version").stdout == zen("--version").stdout
    assert re.match(r"zen-runner \d+\.\d+", zen("-V").stdout)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("vaildate", "no verb 'vaildate' (did you mean 'validate'?)"),
        ("pipeline.yaml", "did you mean `zen-runner --config pipeline.yaml`?"),
        ("run --confg x", "run has no flag '--confg' (did you mean '--config'?)"),
        ("--confg=x", "run has no flag '--confg' (did you mean '--config'?)"),
        ("--quiet validate", "the verb goes first, as in `zen-runner validate …`"),
        ("validate pipeline.yaml", "did you mean --config pipeline.yaml?"),
        ("validate --follow", "logs has it"),
        ("run --conf x", "run has no flag '--conf'"),
        ("run --max-parallel many", "invalid int value: 'many'"),
        ("run --max-parallel 0", "--max-parallel must be 1 or more"),
        ("run --resume --run-id x", "give one of --resume and --run-id"),
        ("run --config", "expected one argument"),
        ("completion fish", "choose from 'bash', 'zsh', 'tcsh'"),
        ("cancel", "the following arguments are required: RUN"),
        ("replay nonsense", "expected STORE/runs/RUN/STEP"),
    ],
)
def test_wrong_command_lines(words: str, says: str) -> None:
    done = zen(*words.split())
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.startswith("zen-runner: error: ")
    assert says in done.stderr


def test_last_words_of_a_wrong_command_line(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    log.touch()
    done = zen("run", "--confg", "x", ZEN_RUNNER_TERMINATION_LOG=str(log))
    words = last_words(done)
    assert (words["class"], words["exit_code"], words["run"]) == ("usage", 64, None)
    assert json.loads(log.read_text()) == words


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(shell: str, tmp_path: Path) -> None:
    script = zen("completion", shell)
    assert script.returncode == 0
    for word in ("validate", "replay", "mermaid"):
        assert word in script.stdout
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here to read it")
    path = tmp_path / "completion"
    path.write_text(script.stdout)
    if shell == "zsh":
        subprocess.run([shell, "-n", str(path)], check=True, timeout=30)
        return
    done = subprocess.run([shell, "-c", f"source {path}"], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_bash_completes_a_verb(tmp_path: Path) -> None:
    (tmp_path / "completion").write_text(zen("completion", "bash").stdout)
    asks = (
        f"source {tmp_path}/completion; COMP_WORDS=(zen-runner val); COMP_CWORD=1; "
        "$(complete -p zen-runner | sed 's/.*-F \\([^ ]*\\).*/\\1/'); echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", asks], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "validate"


def test_unexpected_errors_are_one_line(job: Path) -> None:
    (job / "sitecustomize.py").write_text(
        "import backends.graph\n\ndef order(parents):\n    raise ZeroDivisionError('boom')\n\nbackends.graph.order = order\n"
    )
    environ = {"PYTHONPATH": f"{job}:{running.ROOT}"}
    resolved = zen("resolve", "-c", "pipeline.yaml", "-o", "json", cwd=job).stdout
    (job / "resolved.json").write_text(resolved)
    done = zen("graph", "-c", "resolved.json", cwd=job, **environ)
    assert done.returncode == 1
    assert done.stderr == "zen-runner: unexpected ZeroDivisionError: boom; set ZEN_RUNNER_DEBUG=1 to see where\n"
    process = start("graph", "-c", "resolved.json", cwd=job, ZEN_RUNNER_DEBUG="1", **environ)
    assert "Traceback" in process.communicate(timeout=60)[1]


def test_nobody_reads(job: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, "-P", "-m", "entrypoint"]
    schema = subprocess.run([*argv, "schema"], stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (schema.returncode, schema.stderr) == (141, b"")
    (job / "good").touch()
    run = subprocess.run([*argv, "-c", "pipeline.yaml"], cwd=job, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(write)
    assert run.returncode == 0, run.stderr


def test_streams_that_are_closed_or_know_ascii_only(job: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -P -m entrypoint"
    done = subprocess.run(["bash", "-c", f"{command} version >&- 2>&-"], timeout=60, check=False)
    assert done.returncode == 0
    ascii_only = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    assert zen("graph", "-c", "pipeline.yaml", cwd=job, **ascii_only).stdout.startswith("ingest\n\\u251c")


# -- looking at a config


def test_validate(job: Path) -> None:
    good = zen("validate", "--config", "pipeline.yaml", cwd=job)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.startswith("demo: valid, 4 steps, sha256 ")
    (job / "pipeline.yaml").write_text(
        PIPELINE.replace("ingest.raw", "ingets.raw").replace("outputs: [table]", "ouputs: [table]")
    )
    bad = zen("validate", "--config", "pipeline.yaml", cwd=job)
    assert (bad.returncode, bad.stdout) == (78, "")
    assert "did you mean 'ingest" in bad.stderr
    assert "did you mean 'outputs'?" in bad.stderr
    assert "\x1b" not in bad.stderr
    told = json.loads(zen("validate", "-c", "pipeline.yaml", "-o", "json", cwd=job).stdout)
    assert not told["valid"]
    assert len(told["problems"]) >= 2
    assert all(set(problem) == {"where", "path", "message"} for problem in told["problems"])
    nothing = zen("validate", "--config", "none.yaml", cwd=job)
    assert (nothing.returncode, "none.yaml" in nothing.stderr) == (78, True)


def test_resolve_is_canonical_and_stable(job: Path) -> None:
    canonical = zen("resolve", "-c", "pipeline.yaml", "-o", "json", cwd=job).stdout
    assert wire.dumps(json.loads(canonical)) == canonical
    sha = zen("resolve", "-c", "pipeline.yaml", "--sha256", cwd=job).stdout.strip()
    assert sha == wire.sha256(canonical.encode())
    (job / "resolved.json").write_text(canonical)
    assert zen("resolve", "-c", "resolved.json", "-o", "json", cwd=job).stdout == canonical
    assert json.loads(zen("resolve", "-c", "pipeline.yaml", cwd=job).stdout) == json.loads(canonical)
    changed = zen("resolve", "-c", "pipeline.yaml", "--set", "steps.train.timeout=5", "-o", "json", cwd=job).stdout
    assert json.loads(changed)["steps"]["train"]["timeout"] == 5


def test_encode_is_what_the_environment_takes(job: Path) -> None:
    sha = zen("resolve", "-c", "pipeline.yaml", "--sha256", cwd=job).stdout
    plain = zen("encode", "-c", "pipeline.yaml", cwd=job).stdout.strip()
    packed = zen("encode", "-c", "pipeline.yaml", "--limit", str(len(plain) - 1), cwd=job).stdout.strip()
    assert (plain[0], packed[:3]) == ("{", "gz:")
    for value in (plain, packed):
        assert zen("resolve", "--sha256", cwd=job, ZEN_RUNNER_CONFIG=value).stdout == sha
    assert zen("encode", "-c", "pipeline.yaml", "--limit", "100", cwd=job).returncode == 78


def test_schema_is_a_json_schema(job: Path) -> None:
    import jsonschema
    import yaml

    schema = json.loads(zen("schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(PIPELINE))


def test_graph(job: Path) -> None:
    assert zen("graph", "-c", "pipeline.yaml", cwd=job).stdout == ("ingest\n├─ clean\n└─ note\n   └─ train  (also after clean)\n")
    assert zen("graph", "-c", "pipeline.yaml", "--format", "mermaid", cwd=job).stdout == (
        "flowchart TD\n"
        '    s0["ingest"]\n    s1["clean"]\n    s2["note"]\n    s3["train"]\n'
        '    s0 -->|"raw"| s1\n    s0 -.-> s2\n    s1 -->|"table"| s3\n    s2 -.-> s3\n'
    )


def test_graph_of_a_long_chain() -> None:
    steps = {f"s{number}": {"parents": [f"s{number - 1}"] if number else [], "inputs": {}} for number in range(3000)}
    assert sum(1 for _ in graph.tree({"steps": steps})) == 3000


# -- runs


def test_run_to_the_end(job: Path) -> None:
    (job / "good").touch()
    done = zen("--config", "pipeline.yaml", cwd=job)
    assert done.returncode == 0, done.stderr
    assert "ingest | reading\n" in done.stdout
    assert "note   | no end of line\n" in done.stdout
    assert "clean  | careful\n" in done.stderr
    assert re.search(rf"ingest\.raw +6 B +{re.escape(str(job))}/runs/runs/.*/ingest/1/out/raw", done.stdout)
    assert re.search(r"ingest\.rows +3", done.stdout)
    words = last_words(done)
    assert (words["class"], words["exit_code"], words["step"]) == ("success", 0, None)
    assert "\x1b" not in done.stdout + done.stderr


def test_a_failed_run_is_resumed(job: Path) -> None:
    failed = zen("run", "-c", "pipeline.yaml", cwd=job)
    run = run_id(failed)
    assert failed.returncode == last_words(failed)["exit_code"] == 3
    assert last_words(failed)["class"] == "user"
    assert f"resume with: zen-runner run --config pipeline.yaml --run-id {run}" in failed.stderr
    assert "    bad luck\n" in failed.stderr
    plan = zen("run", "-c", "pipeline.yaml", "--resume", "--dry-run", "-o", "json", cwd=job)
    told = json.loads(plan.stdout)
    assert told["run"] == run
    assert {row["step"]: row["action"] for row in told["plan"]} == {
        **dict.fromkeys(("ingest", "clean", "note"), "skip"),
        "train": "run",
    }
    (job / "good").touch()
    resumed = zen("run", "-c", "pipeline.yaml", "--resume", "-o", "json", cwd=job)
    assert resumed.returncode == 0
    events = [json.loads(line) for line in resumed.stdout.splitlines()]
    assert [event["event"] for event in events] == ["run_started", "step_started", "step_finished", "run_finished"]
    assert events[0]["resumed"] == ["ingest", "clean", "note"]
    assert events[1]["step"] == "train"
    assert run_id(resumed) == run
    assert "train  | training\n" in resumed.stderr
    again = zen("run", "-c", "pipeline.yaml", "--resume", cwd=job)
    assert (again.returncode, "no unfinished run" in again.stderr) == (64, True)


def test_dry_run_touches_nothing(job: Path) -> None:
    done = zen("run", "-c", "pipeline.yaml", "--dry-run", cwd=job)
    assert done.returncode == 0
    rows = [line.split()[:3] for line in done.stdout.splitlines()[3:]]
    assert [row[:2] for row in rows] == [["1", "ingest"], ["2", "clean"], ["3", "note"], ["4", "train"]]
    assert [entry.name for entry in job.iterdir()] == ["pipeline.yaml"]


def test_one_step(job: Path) -> None:
    run = fresh()
    first = zen("run", "-c", "pipeline.yaml", "--step", "ingest", "--run-id", run, cwd=job)
    assert (first.returncode, first.stdout) == (0, "reading\n")
    assert (last_words(first)["step"], last_words(first)["attempt"]) == ("ingest", 1)
    second = zen("run", "-q", "-c", "pipeline.yaml", cwd=job, ZEN_RUNNER_STEP="clean", ZEN_RUNNER_RUN_ID=run)
    assert second.returncode == 0, second.stderr
    told = json.loads(zen("status", "--store", "runs", run, "-o", "json", cwd=job).stdout)
    assert (told["state"], sorted(told["steps"])) == ("success", ["clean", "ingest"])
    wrong = zen("run", "-q", "-c", "pipeline.yaml", "--step", "clena", cwd=job)
    assert (wrong.returncode, "did you mean 'clean'?" in wrong.stderr) == (64, True)
    assert zen("run", "-c", "pipeline.yaml", "--step", "clean", "--keep-going", cwd=job).returncode == 64


def test_backend_that_is_not_there(job: Path) -> None:
    done = zen("run", "-c", "pipeline.yaml", "--backend", "dokcer", cwd=job)
    assert (done.returncode, "did you mean 'docker'?" in done.stderr) == (64, True)
    assert zen("run", "-c", "pipeline.yaml", "--backend", "{broken", cwd=job).returncode == 64


def test_config_error_in_run_leaves_last_words(job: Path) -> None:
    done = zen("--config", "none.yaml", cwd=job)
    assert done.returncode == 78
    assert last_words(done)["class"] == "config"


# -- runs that somebody looks at


SLOW = """\
version: 1
name: slow
code: .
steps:
  wait:
    run: [sh, -c, 'echo began; while ! test -e go; do sleep 0.05; done; echo went on']
  last:
    run: [echo, done]
    after: [wait]
"""


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str], str]]:
    """A run that waits in its first step for a file called ``go``."""
    (tmp_path / "slow.yaml").write_text(SLOW)
    run = fresh()
    process = start("run", "-c", "slow.yaml", "--run-id", run, cwd=tmp_path)
    log = tmp_path / f"runs/runs/{run}/wait/1/log/000001.txt"
    wait_until(lambda: log.exists() and log.read_bytes() == b"began\n")
    yield tmp_path, process, run
    (tmp_path / "go").touch()
    process.terminate()
    process.communicate(timeout=30)


def status(cwd: Path, *args: str) -> dict[str, Any]:
    told = json.loads(zen("status", "-c", "slow.yaml", "-o", "json", *args, cwd=cwd).stdout)
    return {"run": told["state"], **{name: step["class"] for name, step in told["steps"].items()}}


def test_status_and_logs_of_a_run(slow: tuple[Path, subprocess.Popen[str], str]) -> None:
    cwd, process, run = slow
    assert status(cwd) == status(cwd, run) == {"run": "running", "wait": "running", "last": "waiting"}
    assert zen("logs", "-c", "slow.yaml", cwd=cwd).stdout == "wait | began\n"
    followers = [
        start("logs", "-c", "slow.yaml", "-f", cwd=cwd),
        start("logs", "--store", "runs", run, "--step", "wait", "--follow", cwd=cwd),
        start("logs", "--store", "runs", run, "--step", "last", "-f", cwd=cwd),
    ]
    for follower in followers[:2]:
        assert follower.stdout is not None
        assert follower.stdout.readline().endswith("began\n")
    (cwd / "go").touch()
    process.wait(30)
    said = [follower.communicate(timeout=30)[0] for follower in followers]
    assert [follower.returncode for follower in followers] == [0, 0, 0]
    assert said == ["wait | went on\nlast | done\n", "went on\n", "done\n"]
    assert status(cwd) == {"run": "success", "wait": "success", "last": "success"}
    table = zen("status", "-c", "slow.yaml", cwd=cwd).stdout
    assert re.search(r"^wait +success .* 1$", table, re.M)
    assert table.endswith(f"run {run}: success\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped(slow: tuple[Path, subprocess.Popen[str], str], number: int) -> None:
    cwd, process, _run = slow
    process.send_signal(number)
    err = process.communicate(timeout=30)[1]
    assert process.returncode == 143
    assert json.loads(err.splitlines()[-1])["class"] == "terminated"
    assert "resume with: " in err
    assert status(cwd) == {"run": "terminated", "wait": "terminated", "last": "skipped"}


def test_a_killed_driver_is_told_from_a_running_one(slow: tuple[Path, subprocess.Popen[str], str]) -> None:
    cwd, process, run = slow
    process.kill()
    process.wait(30)
    told = zen("status", "-c", "slow.yaml", cwd=cwd).stdout
    assert f"run {run}: unknown" in told
    assert "resumes it" in told
    zen("logs", "-c", "slow.yaml", "-f", cwd=cwd)  # and following it comes to an end


def test_runs_and_steps_that_are_not_there(slow: tuple[Path, subprocess.Popen[str], str]) -> None:
    cwd, _, run = slow
    for args, says in (
        (("status", "--store", "runs", run + "0"), f"did you mean '{run}'?"),
        (("status", "--store", "runs"), "name the run too"),
        (("status", "--store", "runs", "../" + run), "run id"),
        (("logs", "--store", "runs", run, "--step", "wiat"), "did you mean 'wait'?"),
        (("logs", "--store", "runs", run, "--attempt", "2"), "--attempt needs --step"),
        (("logs", "--store", "runs", run, "--driver"), "was not submitted"),
        (("cancel", "--store", "runs", run), "was not submitted: stop process"),
    ):
        done = zen(*args, cwd=cwd)
        assert (done.returncode, done.stdout) == (64, "")
        assert says in done.stderr


def test_submit_status_logs_cancel(tmp_path: Path) -> None:
    run = fresh()
    (tmp_path / "slow.yaml").write_text(SLOW)
    submitted = zen("submit", "-c", "slow.yaml", "--run-id", run, cwd=tmp_path)
    assert (submitted.returncode, submitted.stdout) == (0, f"{run}\n"), submitted.stderr
    for verb in ("status", "logs -f", "cancel"):
        assert f"zen-runner {verb} --config slow.yaml {run}\n" in submitted.stderr
    wait_until(lambda: status(tmp_path).get("wait") == "running")
    assert zen("logs", "-c", "slow.yaml", "--step", "wait", cwd=tmp_path).stdout == "began\n"
    assert zen("submit", "-c", "slow.yaml", "--run-id", run, cwd=tmp_path).returncode == 73
    assert zen("cancel", "-c", "slow.yaml", run, cwd=tmp_path).stdout == f"run {run} was asked to stop\n"
    wait_until(lambda: status(tmp_path)["run"] == "terminated")
    assert zen("cancel", "-c", "slow.yaml", run, cwd=tmp_path).stdout == f"run {run} has ended already: terminated\n"
    assert '"event":"run_finished"' in zen("logs", "-c", "slow.yaml", "--driver", cwd=tmp_path).stdout


def test_before_the_first_run(job: Path) -> None:
    for verb in ("status", "logs"):
        done = zen(verb, "-c", "pipeline.yaml", cwd=job)
        assert (done.returncode, "no run of 'demo'" in done.stderr) == (64, True)
    wrong = zen("status", "--store", "no/such/store", "some-run", cwd=job)
    assert (wrong.returncode, "no/such/store" in wrong.stderr) == (69, True)
    assert zen("run", "-c", "pipeline.yaml", "--dry-run", "--run-id", "new", cwd=job).returncode == 0
    assert [entry.name for entry in job.iterdir()] == ["pipeline.yaml"]


def test_following_goes_on_with_the_next_attempt(tmp_path: Path) -> None:
    (tmp_path / "retried.yaml").write_text(
        "version: 1\ncode: .\nsteps:\n  try:\n    retry: {limit: 1, on: [user], backoff: 0.3}\n"
        "    run: [sh, -c, 'echo up; while ! test -e go; do sleep 0.05; done; echo $ZEN_ATTEMPT; test $ZEN_ATTEMPT = 2']\n"
    )
    run = fresh()
    process = start("run", "-c", "retried.yaml", "--run-id", run, cwd=tmp_path)
    wait_until(lambda: (tmp_path / f"runs/runs/{run}/try/1/claim.json").exists())
    followers = [start("logs", "--store", "runs", run, "-f", *more, cwd=tmp_path) for more in ((), ("--step", "try"))]
    for follower in followers:  # each reads the first attempt before it may end
        assert follower.stdout is not None and "up" in follower.stdout.readline()
    (tmp_path / "go").touch()
    assert process.communicate(timeout=60) is not None
    assert process.returncode == 0
    rest = [follower.communicate(timeout=60)[0] for follower in followers]
    assert rest == ["try | 1\ntry | up\ntry | 2\n", "1\nup\n2\n"]


def test_submit_dry_run_renders(job: Path) -> None:
    documents = json.loads(zen("submit", "-c", "pipeline.yaml", "--dry-run", "-o", "json", cwd=job).stdout)
    assert documents
    assert not (job / "runs").exists()


def test_replay_prints_the_docker_run(job: Path) -> None:
    run = run_id(zen("run", "-c", "pipeline.yaml", cwd=job))
    url = f"runs/runs/{run}/train"
    said = zen("replay", url, cwd=job).stdout
    words = shlex.split(said)
    sha = zen("resolve", "-c", "pipeline.yaml", "--sha256", cwd=job).stdout.strip()
    assert words[:3] == ["docker", "run", "--rm"]
    assert f"--env=ZEN_RUNNER_CONFIG=ref:{job}/runs/configs/{sha}.json#sha256={sha}" in words
    assert {"--env=ZEN_RUNNER_STEP=train", f"--env=ZEN_RUNNER_INPUTS_RUN={run}", f"--volume={job}:{job}:ro"} < set(words)
    assert words[-1] == "zen-runner:cpu"
    assert zen("replay", f"{job}/{url}/1/replay.json", cwd=job).stdout == said
    assert zen("replay", f"{url}/2", cwd=job).returncode == 65
    assert zen("replay", f"runs/runs/{run}/trian", cwd=job).returncode == 64


def test_replay_works_without_the_container(job: Path) -> None:
    """The environment that a replay gives its container repeats the step anywhere."""
    run = run_id(zen("run", "-c", "pipeline.yaml", cwd=job))
    words = shlex.split(zen("replay", f"runs/runs/{run}/clean", cwd=job).stdout)
    environ = dict(word.removeprefix("--env=").split("=", 1) for word in words if word.startswith("--env=ZEN_"))
    done = zen(cwd=job, **environ)
    assert done.returncode == 0, done.stderr
    assert run_id(done) != run
    store = open_store(str(job / "runs"))
    assert store.get(f"runs/{run_id(done)}/clean/1/out/table") == b"1\n2\n3\n"


def test_replay_names_secrets_and_limits() -> None:
    replay = {
        "run": "r1",
        "step": "train",
        "config": "0" * 64,
        "store": "s3://bucket/runs",
        "image": "zen-runner:cuda",
        "image_digest": None,
        "code": None,
        "files": [],
        "secrets": ["API_KEY"],
        "resources": {"cpu": 1.5, "memory": 1 << 30, "gpu": 1},
    }
    words = docker_run(replay, {"AWS_REGION": "eu-west-1", "HOME": "/root"})
    assert {"--cpus=1.5", "--memory=1073741824", "--gpus=1", "--env=API_KEY", "--env=AWS_REGION"} < set(words)
    assert not any(word.startswith(("--volume", "--user", "--env=HOME")) for word in words)
    assert words[-1] == "zen-runner:cuda"


@pytest.mark.engine
def test_containers(job: Path) -> None:
    """The same pipeline in containers: its output comes live, and a replay of one step is one that docker accepts."""
    import docker

    client = docker.from_env()
    try:
        client.images.get("zen-runner:cpu")
    except docker.errors.ImageNotFound:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip("there is no image zen-runner:cpu: make images")
    finally:
        client.close()
    (job / "good").touch()
    done = zen("run", "-c", "pipeline.yaml", "--backend", "docker", cwd=job)
    assert done.returncode == 0, done.stderr
    assert "ingest | reading\n" in done.stdout
    assert "clean  | careful\n" in done.stderr
    run = run_id(done)
    command = zen("replay", f"runs/runs/{run}/clean", cwd=job).stdout
    again = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 0, again.stderr
    words = json.loads(again.stderr.splitlines()[-1])
    table = job / "runs/runs" / words["run"] / "clean/1/out/table"
    assert (words["run"] != run, table.read_text()) == (True, "1\n2\n3\n")
