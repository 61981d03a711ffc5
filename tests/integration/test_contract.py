"""The container contract, version 1: the real entrypoint as a real process, through every exit status and signal.

docs/contract.md lists each row beside the test here that holds it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import running
from tests.support.configs import config, write
from tests.support.running import end, results, run, start
from tests.support.waiting import wait_until

SH = "sh"


def one(folder: Path, **step: Any) -> Path:
    """Write a config with one step, ``s``."""
    return config(folder, steps={"s": step}, code=str(folder))


def gone(pid: int, seconds: float = 10) -> bool:
    """Tell whether a process ends (or is a zombie, whose reaping is its parent's business)."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


# -- the ways in for a config -------------------------------------------------------------------------------------------------


def document(folder: Path, word: str) -> str:
    steps = {"s": {"run": [SH, "-c", f"echo {word}"]}}
    return json.dumps({"version": 1, "store": str(folder / "store"), "steps": steps})


def test_config_from_option_wins_over_environment(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(document(tmp_path, "option"))
    done = run("--config", "a.json", "--step", "s", cwd=tmp_path, ZEN_RUNNER_CONFIG=document(tmp_path, "inline"))
    assert (done.code, done.stdout) == (0, b"option\n")


def test_config_inline_wins_over_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(document(tmp_path, "file"))
    done = run(
        cwd=tmp_path,
        ZEN_RUNNER_CONFIG=document(tmp_path, "inline"),
        ZEN_RUNNER_CONFIG_FILE=str(tmp_path / "a.json"),
        ZEN_RUNNER_STEP="s",
    )
    assert (done.code, done.stdout) == (0, b"inline\n")


def test_config_from_file_variable(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(document(tmp_path, "file"))
    done = run(cwd=tmp_path, ZEN_RUNNER_CONFIG_FILE=str(tmp_path / "a.json"), ZEN_RUNNER_STEP="s")
    assert (done.code, done.stdout) == (0, b"file\n")


def test_config_from_stdin(tmp_path: Path) -> None:
    done = run("--config", "-", "--step", "s", cwd=tmp_path, stdin=document(tmp_path, "stdin").encode())
    assert (done.code, done.stdout) == (0, b"stdin\n")


def test_config_yaml_inline(tmp_path: Path) -> None:
    text = f"version: 1\nstore: {tmp_path}/store\nsteps:\n  s:\n    run: [sh, -c, 'echo yaml']\n"
    done = run(cwd=tmp_path, ZEN_RUNNER_CONFIG=text, ZEN_RUNNER_STEP="s")
    assert (done.code, done.stdout) == (0, b"yaml\n")


def test_config_gzip_inline(tmp_path: Path) -> None:
    value = "gz:" + base64.b64encode(gzip.compress(document(tmp_path, "gz").encode())).decode()
    done = run(cwd=tmp_path, ZEN_RUNNER_CONFIG=value, ZEN_RUNNER_STEP="s")
    assert (done.code, done.stdout) == (0, b"gz\n")


def test_config_by_reference_is_verified(tmp_path: Path) -> None:
    data = document(tmp_path, "ref").encode()
    (tmp_path / "c.json").write_bytes(data)
    good = f"ref:{tmp_path}/c.json#sha256={hashlib.sha256(data).hexdigest()}"
    done = run(cwd=tmp_path, ZEN_RUNNER_CONFIG=good, ZEN_RUNNER_STEP="s")
    assert (done.code, done.stdout) == (0, b"ref\n")
    (tmp_path / "c.json").write_bytes(data + b" ")
    done = run(cwd=tmp_path, ZEN_RUNNER_CONFIG=good, ZEN_RUNNER_STEP="s")
    assert done.code == 78
    assert "not the file" in done.record["message"]


def test_no_config_names_the_ways_in(tmp_path: Path) -> None:
    done = run(cwd=tmp_path)
    assert done.code == 78
    for way in ("--config", "ZEN_RUNNER_CONFIG", "ZEN_RUNNER_CONFIG_FILE", "/etc/zen-runner/config"):
        assert way in done.errors


def test_without_a_step_the_whole_pipeline_runs(tmp_path: Path) -> None:
    steps = {
        "a": {"run": [SH, "-c", 'echo one > "$ZEN_OUTPUT_X"'], "outputs": ["x"]},
        "b": {"run": [SH, "-c", 'cat "$ZEN_INPUT_X"'], "inputs": {"x": "a.x"}},
    }
    done = run("--config", str(config(tmp_path, steps=steps)), cwd=tmp_path, ZEN_RUNNER_RUN_ID="r")
    assert done.code == 0, done.errors
    assert results(tmp_path, "r", "b")[0]["class"] == "success"
    assert done.record["class"] == "success"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ZEN_RUNNER_RUN_ID": "mine", "AWS_BATCH_JOB_ID": "batch"}, "mine"),
        ({"AWS_BATCH_JOB_ID": "batch-1", "AWS_BATCH_JOB_ATTEMPT": "2"}, "batch-1"),
        ({"CLOUD_RUN_EXECUTION": "exec-1", "CLOUD_RUN_TASK_ATTEMPT": "0"}, "exec-1"),
    ],
)
def test_identity_comes_from_the_platform(tmp_path: Path, variables: dict[str, str], expected: str) -> None:
    path = one(tmp_path, run=[SH, "-c", "echo $ZEN_RUN_ID"])
    done = run("--config", str(path), "--step", "s", cwd=tmp_path, env=variables)
    assert done.stdout.decode().strip() == expected
    assert done.record["run"] == expected


# -- the exit table -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code", "kind", "status"),
    [
        ("exit 0", 0, "success", 0),
        ("exit 1", 1, "user", 1),
        ("exit 3", 3, "user", 3),
        ("exit 63", 63, "user", 63),
        ("exit 255", 255, "user", 255),
        # The step's own status is reported as 1 where it would read as one of ours; the record keeps it.
        *((f"exit {code}", 1, "user", code) for code in (64, 65, 69, 73, 76, 78, 124, 137, 143)),
        ("exit 126", 126, "user", 126),
        ("exit 127", 127, "user", 127),
        ("kill -SEGV $$", 139, "user", 139),
        ("kill -KILL $$", 1, "user", 137),
        ("kill -TERM $$", 1, "user", 143),
    ],
)
def test_exit_status(tmp_path: Path, script: str, code: int, kind: str, status: int) -> None:
    path = one(tmp_path, run=[SH, "-c", script])
    done = run("--config", str(path), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r")
    assert done.code == code
    assert done.record["class"] == kind
    assert done.record["exit_code"] == code
    assert results(tmp_path, "r", "s")[0]["status"] == status


def test_exit_64_bad_command_line(tmp_path: Path) -> None:
    done = run("--confg", "x", cwd=tmp_path)
    assert done.code == 64
    assert "--config" in done.errors


def test_exit_65_input_missing(tmp_path: Path) -> None:
    path = config(tmp_path, steps={"s": {"run": ["true"], "inputs": {"x": str(tmp_path / "none.csv")}}})
    done = run("--config", str(path), "--step", "s", cwd=tmp_path)
    assert (done.code, done.record["class"]) == (65, "input")
    assert "none.csv" in done.record["message"]


def test_exit_65_upstream_has_not_run(tmp_path: Path) -> None:
    steps = {"a": {"run": ["true"], "outputs": ["x"]}, "s": {"run": ["true"], "inputs": {"x": "a.x"}}}
    done = run("--config", str(config(tmp_path, steps=steps)), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r")
    assert done.code == 65
    assert "'a'" in done.record["message"]


def test_exit_65_digest_differs(tmp_path: Path) -> None:
    steps = {
        "a": {"run": [SH, "-c", 'echo one > "$ZEN_OUTPUT_X"'], "outputs": ["x"]},
        "s": {"run": ["true"], "inputs": {"x": "a.x"}},
    }
    path = str(config(tmp_path, steps=steps))
    assert run("--config", path, "--step", "a", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r").code == 0
    (tmp_path / "store/runs/r/a/1/out/x").write_text("two\n")
    done = run("--config", path, "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r")
    assert (done.code, done.record["class"]) == (65, "input")


def test_exit_69_store_unreachable(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = config(tmp_path, steps={"s": {"run": ["true"]}}, store="s3://bucket/prefix")
    done = run(
        "--config",
        str(path),
        "--step",
        "s",
        cwd=tmp_path,
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}",
        AWS_ACCESS_KEY_ID="x",
        AWS_SECRET_ACCESS_KEY="x",
        AWS_REGION="us-east-1",
    )
    assert (done.code, done.record["class"]) == (69, "infra")


def test_exit_69_store_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = config(tmp_path, steps={"s": {"run": ["true"]}}, store=str(tmp_path / "file" / "store"))
    done = run("--config", str(path), "--step", "s", cwd=tmp_path)
    assert (done.code, done.record["class"]) == (69, "infra")


def test_exit_73_another_attempt_is_alive(tmp_path: Path) -> None:
    path = one(tmp_path, run=[SH, "-c", f"touch {tmp_path}/running; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"])
    first = start("--config", str(path), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r")
    wait_until((tmp_path / "running").exists)
    second = run("--config", str(path), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r")
    assert (second.code, second.record["class"]) == (73, "duplicate")
    (tmp_path / "go").touch()
    assert end(first).code == 0
    third = run("--config", str(path), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r")
    assert (third.code, third.record["class"], third.record["attempt"]) == (0, "success", 1)


def test_exit_76_no_gpu(tmp_path: Path) -> None:
    path = one(tmp_path, run=["true"], resources={"gpu": 64})
    done = run("--config", str(path), "--step", "s", cwd=tmp_path)
    assert (done.code, done.record["class"]) == (76, "placement")


def test_exit_76_not_enough_memory(tmp_path: Path) -> None:
    path = one(tmp_path, run=["true"], resources={"memory": "4096Ti"})
    done = run("--config", str(path), "--step", "s", cwd=tmp_path)
    assert (done.code, done.record["class"]) == (76, "placement")


def test_exit_78_wrong_config(tmp_path: Path) -> None:
    path = config(tmp_path, steps={"s": {"rn": ["true"]}})
    done = run("--config", str(path), "--step", "s", cwd=tmp_path)
    assert done.code == 78
    assert "steps.s.rn" in done.errors
    assert done.record["class"] == "config"


@pytest.mark.parametrize(
    ("where", "value"),
    [("inputs", 5), ("parents", None), ("run", "text"), ("run", [1]), ("timeout", "soon"), ("resources", []), ("retry", 1)],
)
def test_exit_78_resolved_config_that_is_not(tmp_path: Path, where: str, value: object) -> None:
    (tmp_path / "plain.json").write_text(document(tmp_path, "hello"))
    resolved = json.loads(run("resolve", "--config", "plain.json", cwd=tmp_path).stdout)
    resolved["steps"]["s"][where] = value
    (tmp_path / "resolved.json").write_text(json.dumps(resolved, separators=(",", ":")))
    done = run("--config", "resolved.json", "--step", "s", cwd=tmp_path)
    assert (done.code, done.record["class"]) == (78, "config"), done.errors
    assert f"steps.s.{where}" in done.record["message"]
    assert "Traceback" not in done.errors


def test_exit_78_nul_in_an_argument(tmp_path: Path) -> None:
    done = run("--config", str(one(tmp_path, run=["echo", "a\0b"])), "--step", "s", cwd=tmp_path)
    assert (done.code, done.record["class"]) == (78, "config")


def test_as_url_gives_urls(tmp_path: Path) -> None:
    steps = {
        "a": {"run": [SH, "-c", 'echo one > "$ZEN_OUTPUT_X"'], "outputs": ["x"], "as": "url"},
        "b": {"run": ["cat", "{inputs.x}"], "inputs": {"x": "a.x"}, "as": "url"},
    }
    done = run("--config", str(config(tmp_path, steps=steps)), cwd=tmp_path, ZEN_RUNNER_RUN_ID="r")
    assert done.code == 0, done.errors
    artifact = results(tmp_path, "r", "a")[0]["outputs"]["x"]
    assert artifact["digest"] == "sha256:" + hashlib.sha256(b"one\n").hexdigest()


def test_exit_78_unknown_step(tmp_path: Path) -> None:
    done = run("--config", str(one(tmp_path, run=["true"])), "--step", "t", cwd=tmp_path)
    assert (done.code, done.record["class"]) == (78, "config")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("nowhere:f", "no module 'nowhere'"),
        ("mod:nope", "has no 'nope'"),
        ("mod:value", "not a function"),
        ("mod:needs", "needs 'x'"),
        ("mod:takes", "no parameter 'n'"),
    ],
)
def test_exit_78_call_that_cannot_be(tmp_path: Path, call: str, words: str) -> None:
    write(tmp_path, mod_py="value = 1\ndef needs(x, n): pass\ndef takes(): pass\n")
    done = run("--config", str(one(tmp_path, call=call, args={"n": 1})), "--step", "s", cwd=tmp_path)
    assert (done.code, done.record["class"]) == (78, "config")
    assert words in done.record["message"]


def test_exit_124_timeout(tmp_path: Path) -> None:
    path = one(tmp_path, run=[SH, "-c", "sleep 60"], timeout="300ms", grace_period="5s")
    done = run("--config", str(path), "--step", "s", cwd=tmp_path)
    assert (done.code, done.record["class"]) == (124, "timeout")


def test_exit_126_not_executable(tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    done = run("--config", str(one(tmp_path, run=["./tool"])), "--step", "s", cwd=tmp_path)
    assert (done.code, done.record["class"]) == (126, "user")


def test_exit_127_not_found(tmp_path: Path) -> None:
    done = run("--config", str(one(tmp_path, run=["no-such-tool"])), "--step", "s", cwd=tmp_path)
    assert (done.code, done.record["class"]) == (127, "user")
    assert "no-such-tool" in done.record["message"]


def _can_limit_memory() -> bool:
    from entrypoint.runtime import cgroup

    group = cgroup.memory()
    child = group.child(f"zen-runner-test-{os.getpid()}", 1 << 26) if group is not None else None
    if child is None:
        return False
    child.remove()
    return True


@pytest.mark.skipif(not _can_limit_memory(), reason="no control group can be made here; the docker tests do it too")
def test_exit_137_oom_and_more_memory_for_the_retry(tmp_path: Path) -> None:
    write(tmp_path, eat_py="def run(): return {'n': len(bytearray(200 << 20))}\n")
    path = one(
        tmp_path,
        call="eat:run",
        resources={"memory": "100Mi"},
        retry={"limit": 1, "on": ["oom"], "memory_factor": 4, "backoff": 0},
    )
    done = run("--config", str(path), cwd=tmp_path, ZEN_RUNNER_RUN_ID="r")
    assert done.code == 0, done.errors
    first, second = results(tmp_path, "r", "s")
    assert (first["class"], first["exit_code"]) == ("oom", 137)
    assert second["class"] == "success"


# -- signals ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_exit_143_stop_reaches_the_whole_group(tmp_path: Path, number: int) -> None:
    write(
        tmp_path,
        family_py=f"""
        import os, signal, sys, time
        child = os.fork()
        def stopped(number, frame):
            if child:
                os.wait()
                sys.exit(9)
            os.write(1, b"child got it")
            sys.exit(0)
        signal.signal({int(number)}, stopped)
        if not child:
            open("ready", "w").close()
        while True:
            time.sleep(0.05)
        """,
    )
    process = start("--config", str(one(tmp_path, run=[running.USER_PYTHON, "family.py"])), "--step", "s", cwd=tmp_path)
    wait_until((tmp_path / "ready").exists)
    time.sleep(0.2)
    process.send_signal(number)
    done = end(process)
    assert (done.code, done.record["class"]) == (143, "terminated")
    assert b"child got it" in done.stdout
    assert signal.Signals(number).name in done.record["message"]


def test_grace_period_then_kill(tmp_path: Path) -> None:
    script = f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done"
    path = one(tmp_path, run=[SH, "-c", script], grace_period="500ms")
    process = start("--config", str(path), "--step", "s", cwd=tmp_path)
    wait_until((tmp_path / "pid").exists)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert end(process).code == 143
    assert gone(int((tmp_path / "pid").read_text()))


def test_grace_period_belongs_to_every_process_of_the_group(tmp_path: Path) -> None:
    # The shell dies of SIGTERM at once; its child saves a checkpoint and must be given the time.
    script = f"""
    (trap 'sleep 1; echo saved > {tmp_path}/checkpoint; exit' TERM; touch {tmp_path}/ready; while :; do sleep 0.05; done) &
    wait
    """
    process = start("--config", str(one(tmp_path, run=[SH, "-c", script], grace_period="20s")), "--step", "s", cwd=tmp_path)
    wait_until((tmp_path / "ready").exists)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert end(process).code == 143
    assert (tmp_path / "checkpoint").read_text() == "saved\n"


def test_second_interrupt_does_not_wait(tmp_path: Path) -> None:
    script = f"trap '' TERM INT; touch {tmp_path}/ready; while :; do sleep 0.05; done"
    path = one(tmp_path, run=[SH, "-c", script], grace_period="10m")
    process = start("--config", str(path), "--step", "s", cwd=tmp_path)
    wait_until((tmp_path / "ready").exists)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert end(process, timeout=20).code == 143


@pytest.mark.parametrize("name", ["HUP", "QUIT", "USR1", "USR2", "WINCH"])
def test_other_signals_are_passed_on(tmp_path: Path, name: str) -> None:
    script = f"trap 'echo got {name}; exit 0' {name}; touch {tmp_path}/ready; while :; do sleep 0.05; done"
    process = start("--config", str(one(tmp_path, run=[SH, "-c", script])), "--step", "s", cwd=tmp_path)
    wait_until((tmp_path / "ready").exists)
    time.sleep(0.2)
    process.send_signal(getattr(signal, "SIG" + name))
    done = end(process)
    assert (done.code, done.stdout) == (0, f"got {name}\n".encode())


def test_nothing_is_left_in_the_background(tmp_path: Path) -> None:
    script = f"sleep 300 & echo $! > {tmp_path}/pid; exit 0"
    assert run("--config", str(one(tmp_path, run=[SH, "-c", script])), "--step", "s", cwd=tmp_path).code == 0
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_stop_ends_daemons_too(tmp_path: Path) -> None:
    # A process that left the group and the session is still known by the step's own variables.
    script = f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 300' </dev/null >/dev/null 2>&1 & sleep 300"
    process = start("--config", str(one(tmp_path, run=[SH, "-c", script])), "--step", "s", cwd=tmp_path)
    wait_until((tmp_path / "pid").exists)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert end(process).code == 143
    assert gone(int((tmp_path / "pid").read_text()))


def test_stop_is_served_while_nobody_reads_the_output(tmp_path: Path) -> None:
    script = f"touch {tmp_path}/ready; while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done"
    path = one(tmp_path, run=[SH, "-c", script], grace_period="1s")
    process = start("--config", str(path), "--step", "s", cwd=tmp_path)
    wait_until((tmp_path / "ready").exists)
    time.sleep(1)  # the pipe of ours that nobody reads is full by now
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)
    assert process.returncode == 143
    process.communicate()


# -- last words ---------------------------------------------------------------------------------------------------------------


def test_last_words_go_to_all_three_places(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    log.write_text("older words, longer than what comes" * 100)
    path = one(tmp_path, run=[SH, "-c", "printf 'no newline' >&2; exit 5"])
    done = run("--config", str(path), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r", ZEN_RUNNER_TERMINATION_LOG=str(log))
    assert done.stderr.startswith(b"no newline\n{")
    assert done.record == json.loads(log.read_text())
    stored = results(tmp_path, "r", "s")[0]
    for name in ("version", "run", "step", "attempt", "class", "exit_code", "message"):
        assert done.record[name] == stored[name]
    assert done.record["version"] == 1


def test_last_words_fit_the_termination_message(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    log.touch()
    write(tmp_path, mod_py="def run():\n    print('ü' * 50000)\n    raise ValueError('ä\\u2028\\x00' * 50000)\n")
    done = run("--config", str(one(tmp_path, call="mod:run")), "--step", "s", cwd=tmp_path, ZEN_RUNNER_TERMINATION_LOG=str(log))
    assert done.code == 1
    assert len(log.read_bytes()) <= 4096
    assert len(done.stderr.splitlines(keepends=True)[-1]) <= 4096
    assert done.record["message"].startswith("ValueError: ä")


def test_what_a_step_prints_is_not_a_record(tmp_path: Path) -> None:
    fake = '{"attempt":1,"class":"success","exit_code":0,"message":"","run":"r","step":"s","version":1}'
    done = run("--config", str(one(tmp_path, run=[SH, "-c", f"echo '{fake}' >&2; exit 4"])), "--step", "s", cwd=tmp_path)
    assert (done.code, done.record["exit_code"]) == (4, 4)


def test_a_step_cannot_redirect_the_last_words(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    (tmp_path / "log").symlink_to(target)
    path = one(tmp_path, run=["false"])
    run("--config", str(path), "--step", "s", cwd=tmp_path, ZEN_RUNNER_TERMINATION_LOG=str(tmp_path / "log"))
    assert target.read_text() == "precious"


# -- what the step sees -------------------------------------------------------------------------------------------------------


def test_output_passes_through_untouched(tmp_path: Path) -> None:
    every_byte = bytes(range(256)) * 4096
    (tmp_path / "data").write_bytes(every_byte)
    script = f"cat {tmp_path}/data; cat {tmp_path}/data >&2"
    done = run("--config", str(one(tmp_path, run=[SH, "-c", script])), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r")
    assert done.stdout == every_byte
    assert done.stderr.startswith(every_byte + b"\n{")
    log = b"".join(path.read_bytes() for path in sorted((tmp_path / "store/runs/r/s/1/log").iterdir()))
    assert len(log) == 2 * len(every_byte)


def test_output_comes_at_once(tmp_path: Path) -> None:
    write(tmp_path, mod_py="import time\ndef run():\n    print('first')\n    time.sleep(300)\n")
    process = start("--config", str(one(tmp_path, call="mod:run")), "--step", "s", cwd=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == b"first\n"
    process.terminate()
    assert end(process).code == 143


def test_environment_of_the_step(tmp_path: Path) -> None:
    steps = {
        "a": {"run": [SH, "-c", 'echo 1 > "$ZEN_OUTPUT_X"'], "outputs": ["x"]},
        "s": {
            "run": ["env"],
            "inputs": {"table": "a.x"},
            "outputs": [],
            "env": {"COLOUR": "blue", "COUNT": 3},
        },
    }
    path = str(config(tmp_path, steps=steps))
    extra = {"ZEN_RUNNER_RUN_ID": "r", "TRACEPARENT": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    assert run("--config", path, "--step", "a", cwd=tmp_path, env=extra).code == 0
    done = run("--config", path, "--step", "s", cwd=tmp_path, env=extra)
    seen = dict(line.split("=", 1) for line in done.stdout.decode().splitlines())
    assert seen["ZEN_RUN_ID"] == "r"
    assert seen["ZEN_STEP"] == "s"
    assert seen["ZEN_ATTEMPT"] == "1"
    assert Path(seen["ZEN_INPUT_TABLE"]).read_text() == "1\n"
    assert seen["TRACEPARENT"].startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert seen["TRACEPARENT"].split("-")[2] != "b7ad6b7169203331"
    assert (seen["COLOUR"], seen["COUNT"]) == ("blue", "3")
    assert not [name for name in seen if name.startswith("ZEN_RUNNER_")]


def test_secrets_reach_the_step_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-a-file\n")
    seen = hashlib.sha256(b"s3cr3tfrom-a-file").hexdigest()
    path = config(
        tmp_path,
        secrets={"API_KEY": {"env": "OUTER_KEY"}, "TOKEN": {"file": str(tmp_path / "token")}},
        steps={"s": {"run": [SH, "-c", f'test "$(printf %s "$API_KEY$TOKEN" | sha256sum)" = "{seen}  -"']}},
    )
    done = run("--config", str(path), "--step", "s", cwd=tmp_path, OUTER_KEY="s3cr3t", ZEN_RUNNER_RUN_ID="r")
    assert done.code == 0, done.errors
    for file in (tmp_path / "store").rglob("*"):
        if file.is_file():
            assert b"s3cr3t" not in file.read_bytes()
            assert b"from-a-file" not in file.read_bytes()
    done = run("--config", str(path), "--step", "s", cwd=tmp_path)
    assert (done.code, done.record["class"]) == (76, "placement")
    assert "OUTER_KEY" in done.record["message"]


def test_nothing_of_ours_can_be_imported(tmp_path: Path) -> None:
    write(
        tmp_path,
        mod_py="""
        import importlib, json
        def run():
            found = []
            for name in ("entrypoint", "backends", "supervise", "step", "shim", "msgspec", "obstore", "yaml", "rich"):
                try:
                    found.append(importlib.import_module(name).__name__)
                except ImportError:
                    pass
            return {"found": found}
        if __name__ == "__main__":
            print(json.dumps(run()))
        """,
    )
    # What this Python has of its own, a PyYAML say, is the user's.
    own = subprocess.run([running.USER_PYTHON, "mod.py"], cwd=tmp_path, capture_output=True, check=True)
    assert not {"entrypoint", "backends", "msgspec", "obstore"} & set(json.loads(own.stdout)["found"])
    done = run("--config", str(one(tmp_path, call="mod:run")), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r")
    assert done.code == 0, done.errors
    assert results(tmp_path, "r", "s")[0]["values"] == json.loads(own.stdout)


def test_modules_named_like_ours_are_the_users(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "backends/__init__.py": "NAME = 'theirs'\n",
            "entrypoint/__init__.py": "",
            "entrypoint/runtime.py": "NAME = 'theirs too'\n",
        },
        yaml_py="import backends\nfrom entrypoint import runtime\ndef run(): return {'names': [backends.NAME, runtime.NAME]}\n",
    )
    done = run("--config", str(one(tmp_path, call="yaml:run")), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r")
    assert done.code == 0, done.errors
    assert results(tmp_path, "r", "s")[0]["values"] == {"names": ["theirs", "theirs too"]}


def test_call_receives_paths_and_args(tmp_path: Path) -> None:
    write(
        tmp_path,
        mod_py="""
        from pathlib import Path
        def make(out, text, count=1):
            assert isinstance(out, Path)
            out.write_text(text * count)
            return {"length": len(text) * count, "nested": {"list": [1, 2.5, None]}}
        def use(table, length, tag):
            assert isinstance(table, Path) and length == 6, length
            assert table.read_text() == "ababab" and tag == "got 6 and 2.5"
        """,
    )
    steps = {
        "make": {"call": "mod:make", "args": {"text": "ab", "count": 3}, "outputs": ["out"]},
        "use": {
            "call": "mod:use",
            "inputs": {"table": "make.out"},
            "args": {"length": "{make.values.length}", "tag": "got {make.values.length} and {make.values.nested.list.1}"},
        },
    }
    done = run("--config", str(config(tmp_path, steps=steps)), cwd=tmp_path)
    assert done.code == 0, done.errors


def test_placeholders_go_through_no_shell(tmp_path: Path) -> None:
    nasty = "$(touch pwned); `touch pwned` ' \" \\ {inputs.x}"
    path = one(tmp_path, run=["printf", "%s", "{args.text}"], args={"text": nasty.replace("{", "{{").replace("}", "}}")})
    done = run("--config", str(path), "--step", "s", cwd=tmp_path)
    assert done.stdout.decode() == nasty
    assert not (tmp_path / "pwned").exists()


def test_large_arguments_reach_a_call(tmp_path: Path) -> None:
    write(tmp_path, mod_py="def run(text): return {'length': len(text)}\n")
    path = one(tmp_path, call="mod:run", args={"text": "x" * 3_000_000})
    done = run("--config", str(path), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r")
    assert done.code == 0, done.errors[:500]
    assert results(tmp_path, "r", "s")[0]["values"] == {"length": 3_000_000}


def test_a_run_step_returns_values(tmp_path: Path) -> None:
    path = one(tmp_path, run=[SH, "-c", """echo '{"rows": 3}' > "$ZEN_VALUES" """])
    run("--config", str(path), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r")
    assert results(tmp_path, "r", "s")[0]["values"] == {"rows": 3}


@pytest.mark.parametrize("text", ["[1]", "{", "NaN", "\xff"])
def test_values_that_are_no_mapping_fail_the_step(tmp_path: Path, text: str) -> None:
    (tmp_path / "v").write_bytes(text.encode("latin-1"))
    done = run("--config", str(one(tmp_path, run=[SH, "-c", 'cp v "$ZEN_VALUES"'])), "--step", "s", cwd=tmp_path)
    assert (done.code, done.record["class"]) == (1, "user")
    assert "values" in done.record["message"]


def test_returned_value_that_is_no_json_is_named(tmp_path: Path) -> None:
    write(tmp_path, mod_py="def run(): return {'fine': 1, 'when': object()}\n")
    done = run("--config", str(one(tmp_path, call="mod:run")), "--step", "s", cwd=tmp_path)
    assert (done.code, done.record["class"]) == (1, "user")
    assert "'when'" in done.record["message"]


def test_a_bad_value_costs_no_output(tmp_path: Path) -> None:
    """The outputs of hours are published whatever the step returns, and the message says where."""
    write(tmp_path, mod_py="def run(model):\n    model.write_text('weights')\n    return {'fine': 1, 'when': object()}\n")
    path = one(tmp_path, call="mod:run", outputs=["model"])
    done = run("--config", str(path), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r")
    assert (done.code, done.record["class"]) == (1, "user")
    record = results(tmp_path, "r", "s")[0]
    published = tmp_path / "store" / record["outputs"]["model"]["key"]
    assert (published.read_text(), record["values"]) == ("weights", {"fine": 1})
    assert "'when'" in record["message"] and str(published) in record["message"]


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("mkfifo $ZEN_VALUES", "is a pipe"),
        ("mkfifo p; ln -s $PWD/p $ZEN_VALUES", "is a link to"),
        ("ln -s /etc/passwd $ZEN_VALUES", "is a link to"),
        ("mkdir $ZEN_VALUES", "is a directory"),
        ("""python3 -c "print('['*100000)" > $ZEN_VALUES""", "levels deep"),
        ("""python3 -c "print('{\\"a\\": ' + '['*101 + ']'*101 + '}')" > $ZEN_VALUES""", "'a"),
        ("head -c 2000000 /dev/zero > $ZEN_VALUES", "larger than 1048576 bytes"),
        ("""printf '{"a": {"b": [1, 1e999]}}' > $ZEN_VALUES""", "'a.b.1' is 1e999"),
        ("""printf '{"a": "x\\\\ud83d"}' > $ZEN_VALUES""", "'a' has half of a surrogate pair"),
        ("""printf '{"n": 1%05000d}' 0 > $ZEN_VALUES""", "not JSON"),
    ],
)
def test_whatever_is_in_the_place_of_the_values(tmp_path: Path, script: str, says: str) -> None:
    path = one(tmp_path, run=[SH, "-c", f"echo kept > $ZEN_OUTPUT_X; {script}"], outputs=["x"])
    done = run("--config", str(path), "--step", "s", cwd=tmp_path, timeout=20, ZEN_RUNNER_RUN_ID="r")
    assert (done.code, done.record["class"]) == (1, "user"), done.errors
    assert says in done.record["message"]
    assert (tmp_path / "store/runs/r/s/1/out/x").read_text() == "kept\n"


@pytest.mark.parametrize("script", ["mkfifo {}", "mkdir {}", "ln -s /dev/zero {}", "python3 -c \"print('[' * 900000)\" > {}"])
def test_whatever_is_in_the_place_of_a_shim_s_word(tmp_path: Path, script: str) -> None:
    write(tmp_path, mod_py=f"import os, pathlib\ndef run(x):\n    os.system({script!r}.format(x.parents[1] / 'error.json'))\n")
    write(tmp_path, bad_py="import mod, os\ndef run(x):\n    mod.run(x)\n    os._exit(3)\n")
    for call, code in (("mod:run", 1), ("bad:run", 3)):
        path = one(tmp_path, call=call, outputs=["x"])
        done = run("--config", str(path), "--step", "s", cwd=tmp_path, timeout=20)
        assert (done.code, done.record["class"]) == (code, "user"), done.errors


def test_what_is_no_finite_number_is_null_and_noted(tmp_path: Path) -> None:
    write(tmp_path, mod_py="def run(): return {'loss': float('nan'), 'best': [1.5, float('-inf')]}\n")
    assert run("--config", str(one(tmp_path, call="mod:run")), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r").code == 0
    record = results(tmp_path, "r", "s")[0]
    assert record["values"] == {"loss": None, "best": [1.5, None]}
    assert "'loss' is NaN" in record["message"] and "'best.1' is -Infinity" in record["message"]
    path = one(tmp_path, run=[SH, "-c", """echo '{"loss": Infinity}' > $ZEN_VALUES"""])
    assert run("--config", str(path), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="q").code == 0
    assert results(tmp_path, "q", "s")[0]["values"] == {"loss": None}


RETURNED = """
import asyncio, collections, dataclasses, decimal, enum, functools, fractions
class Scalar:
    shape = ()
    def __init__(self, value): self.value = value
    def item(self): return self.value
class Index:
    def __index__(self): return 7
class Colour(enum.IntEnum):
    RED = 2
@dataclasses.dataclass
class Point:
    x: int
    y: object
Pair = collections.namedtuple("Pair", "a b")
def scalars(): return {"f": Scalar(0.5), "i": Scalar(3), "b": Scalar(True), "n": Index(), "d": decimal.Decimal("1.5"),
    "q": fractions.Fraction(1, 4), "e": Colour.RED, "list": [Scalar(1), (Index(),)], Index(): 1}
def dataclass(): return Point(1, {"z": Scalar(2)})
def named(): return Pair(1, "two")
def number(): return 3
def scalar(): return Scalar(0.25)
def text(): return "done"
def plain_tuple(): return 0.9, 12
def nothing(): return None
async def coroutine():
    await asyncio.sleep(0)
    return {"rows": 3}
def future(): return later()
class later:
    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return {"late": 1}
@functools.wraps(coroutine)
def decorated(): return coroutine()
class Worker:
    async def __call__(self): return {"worker": 1}
    def method(self): return {"method": 1}
worker = Worker()
"""


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("scalars", {"f": 0.5, "i": 3, "b": True, "n": 7, "d": 1.5, "q": 0.25, "e": 2, "list": [1, [7]], "7": 1}),
        ("dataclass", {"x": 1, "y": {"z": 2}}),
        ("named", {"a": 1, "b": "two"}),
        ("number", {"value": 3}),
        ("scalar", {"value": 0.25}),
        ("text", {"value": "done"}),
        ("plain_tuple", {"value": [0.9, 12]}),
        ("nothing", {}),
        ("coroutine", {"rows": 3}),
        ("future", {"late": 1}),
        ("decorated", {"rows": 3}),
        ("worker", {"worker": 1}),
        ("worker.method", {"method": 1}),
    ],
)
def test_what_a_function_may_return(tmp_path: Path, name: str, values: dict[str, Any]) -> None:
    (tmp_path / "mod.py").write_text(RETURNED)
    done = run("--config", str(one(tmp_path, call=f"mod:{name}")), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r")
    assert done.code == 0, done.errors
    record = results(tmp_path, "r", "s")[0]
    assert (record["values"], record["message"]) == (values, "")


@pytest.mark.parametrize("body", ["return object()", "return [object()]", "return open(__file__)", "return 'x' * 100_000"])
def test_of_what_is_no_value_the_record_says_so(tmp_path: Path, body: str) -> None:
    write(tmp_path, mod_py=f"def run():\n    {body}\n")
    done = run("--config", str(one(tmp_path, call="mod:run")), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r")
    assert done.code == 0, done.errors
    record = results(tmp_path, "r", "s")[0]
    assert record["values"] == {}
    assert "of which nothing is kept" in record["message"]


LOOPS = """
import functools
ran = open("ran", "w")
def plain():
    yield 1
async def later():
    yield 1
def inner(): return plain()
class Worker:
    def __call__(self):
        yield 1
worker = Worker()
partial = functools.partial(plain)
"""


@pytest.mark.parametrize(
    ("name", "kind"), [("plain", "config"), ("later", "config"), ("worker", "config"), ("inner", "user"), ("partial", "user")]
)
def test_a_generator_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "mod.py").write_text(LOOPS)
    done = run("--config", str(one(tmp_path, call=f"mod:{name}")), "--step", "s", cwd=tmp_path)
    assert done.record["class"] == kind
    assert "yield" in done.record["message"] or "generator" in done.record["message"]


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("sys.exit()", 1, "sys.exit(None) while importing mod"),
        ("sys.exit(0)", 1, "sys.exit(0) while importing mod"),
        ("sys.exit(3)", 3, "sys.exit(3) while importing mod"),
        ("sys.exit('no data')", 1, "'no data'"),
        ("os._exit(0)", 1, "before its function was called"),
        ("raise type('Odd', (BaseException,), {})('x')", 1, "Odd while importing mod: x"),
    ],
)
def test_a_module_that_ends_the_process_is_no_success(tmp_path: Path, line: str, code: int, says: str) -> None:
    write(tmp_path, mod_py=f"import os, sys\ndef run(): pass\n{line}\n")
    done = run("--config", str(one(tmp_path, call="mod:run")), "--step", "s", cwd=tmp_path)
    assert (done.code, done.record["class"]) == (code, "user")
    assert says in done.record["message"]


@pytest.mark.parametrize("end", ["raise ValueError('bad data')", "sys.exit(5)"])
@pytest.mark.parametrize(
    "left",
    [
        "threading.Thread(target=time.sleep, args=(60,)).start()",
        "concurrent.futures.ThreadPoolExecutor(1).submit(time.sleep, 60)",
        "multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,)).start()",
    ],
)
def test_a_failure_waits_for_nobody(tmp_path: Path, left: str, end: str) -> None:
    imports = "atexit, concurrent.futures, multiprocessing, sys, threading, time"
    write(tmp_path, mod_py=f"import {imports}\ndef run():\n    atexit.register(print, 'bye')\n    {left}\n    {end}\n")
    began = time.monotonic()
    done = run("--config", str(one(tmp_path, call="mod:run")), "--step", "s", cwd=tmp_path)
    assert time.monotonic() - began < 15
    assert done.record["class"] == "user"
    assert done.code == (1 if "raise" in end else 5)
    assert done.stdout == b"bye\n"


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (b"#!/bin/sh\r\necho hi\r\n", 127, "carriage return"),
        (b"#!/usr/bin/env python3\r\nprint(1)\r\n", 127, "carriage return"),
        (b"#!/opt/nothing/python3.99\n", 127, "/opt/nothing/python3.99"),
        (b"#!/etc/passwd\n", 126, "/etc/passwd' is not executable"),
        (b"echo hi\n", 126, "names no interpreter"),
        (b"", 126, "names no interpreter"),
        (b"\x7fELF\x02\x01\x01" + b"\0" * 9 + b"\x02\0\xb7\0" + b"\0" * 100, 126, "format of aarch64"),
    ],
)
def test_a_program_that_cannot_start_says_why(tmp_path: Path, data: bytes, code: int, says: str) -> None:
    (tmp_path / "prog").write_bytes(data)
    (tmp_path / "prog").chmod(0o755)
    done = run("--config", str(one(tmp_path, run=["./prog"])), "--step", "s", cwd=tmp_path)
    assert (done.code, done.record["class"]) == (code, "user")
    assert says in done.record["message"]


def test_of_a_bus_error_the_shared_memory_is_told(tmp_path: Path) -> None:
    script = "import mmap; f = open('x', 'w+b'); f.truncate(4096); m = mmap.mmap(f.fileno(), 4096); f.truncate(0); m[0]"
    done = run("--config", str(one(tmp_path, run=["python3", "-c", script])), "--step", "s", cwd=tmp_path)
    assert (done.record["class"], done.record["signal"]) == ("user", signal.SIGBUS)
    assert "/dev/shm" in done.record["message"]


def test_the_largest_argument_is_named(tmp_path: Path) -> None:
    for step in ({"run": ["true"], "env": {"BIG": "x" * 200_000}}, {"run": ["true", "x" * 200_000]}):
        done = run("--config", str(one(tmp_path, **step)), "--step", "s", cwd=tmp_path)
        assert (done.code, done.record["class"]) == (78, "config")
        assert "$BIG, 200000 bytes" in done.record["message"] or "argument 1, 200000 bytes" in done.record["message"]


def test_a_secret_is_the_same_text_from_everywhere(tmp_path: Path) -> None:
    (tmp_path / "pw").write_bytes(b" two\nlines \r\n")
    secrets = {"A": {"file": str(tmp_path / "pw")}, "B": {"env": "MINE"}}
    steps = {"s": {"run": ["python3", "-c", "import os; print([os.environ[n] for n in 'AB'])"]}}
    done = run(
        "--config", str(config(tmp_path, secrets=secrets, steps=steps)), "--step", "s", cwd=tmp_path, MINE=" two\nlines \n"
    )
    assert done.stdout.decode() == "[' two\\nlines ', ' two\\nlines ']\n"


def test_a_failed_attempt_s_outputs_stay_for_a_look(tmp_path: Path) -> None:
    path = one(
        tmp_path,
        run=[SH, "-c", 'mkdir "$ZEN_OUTPUT_X"; date > "$ZEN_OUTPUT_X/f"; chmod -R a-w "$ZEN_OUTPUT_X"; exit $CODE'],
        outputs=["x"],
    )
    store = tmp_path / "store/runs/r/s"
    for number in (1, 2):
        run("--config", str(path), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r", CODE="3")
        assert [found.parent.name for found in store.glob("*/unpublished")] == [str(number)]
        assert (store / f"{number}/unpublished/x/f").is_file()
        assert not (store / f"{number}/tmp").exists() and not (store / f"{number}/out").exists()
    assert run("--config", str(path), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r", CODE="0").code == 0
    assert list(store.glob("*/unpublished")) == []


def test_a_step_that_leaves_a_deep_tree_in_its_way_ends_well(tmp_path: Path) -> None:
    script = "import os\nos.chdir(os.path.dirname(os.environ['ZEN_VALUES']))\nfor _ in range(2000): os.mkdir('d'); os.chdir('d')"
    done = run("--config", str(one(tmp_path, run=["python3", "-c", script])), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r")
    assert done.code == 0, done.errors
    assert not (tmp_path / "store/runs/r/s/1/tmp").exists()


def test_a_step_that_removes_its_room_or_takes_an_output_s_place(tmp_path: Path) -> None:
    for script in (
        'rm -r "$(dirname "$ZEN_OUTPUT_X")"',
        'mkdir -p "$(dirname "$ZEN_OUTPUT_X")/../../out/x/y"; echo > "$ZEN_OUTPUT_X"',
    ):
        done = run("--config", str(one(tmp_path, run=[SH, "-c", script], outputs=["x"])), "--step", "s", cwd=tmp_path)
        assert (done.code, done.record["class"]) == (1, "user"), done.errors


def test_an_exception_shows_the_users_traceback_only(tmp_path: Path) -> None:
    write(tmp_path, mod_py="def run():\n    raise KeyError('colour')\n")
    done = run("--config", str(one(tmp_path, call="mod:run")), "--step", "s", cwd=tmp_path)
    assert done.code == 1
    assert "mod.py" in done.errors
    assert "call.py" not in done.errors
    assert done.record["message"].startswith("KeyError: 'colour'")
    assert "mod.py:2" in done.record["message"]


def test_sys_exit_keeps_its_status(tmp_path: Path) -> None:
    write(tmp_path, mod_py="import sys\ndef run(): sys.exit(42)\n")
    assert run("--config", str(one(tmp_path, call="mod:run")), "--step", "s", cwd=tmp_path).code == 42


def test_a_missing_output_fails_the_step(tmp_path: Path) -> None:
    done = run("--config", str(one(tmp_path, run=["true"], outputs=["model"])), "--step", "s", cwd=tmp_path)
    assert (done.code, done.record["class"]) == (1, "user")
    assert "'model'" in done.record["message"]


def test_stdin_is_empty(tmp_path: Path) -> None:
    done = run("--config", str(one(tmp_path, run=["cat"])), "--step", "s", cwd=tmp_path, stdin=b"not for the step")
    assert (done.code, done.stdout) == (0, b"")


def _pythons() -> list[str]:
    """Return the oldest and newest CPython of this machine that a step may use."""
    found = {}
    for version in ("3.8", "3.9", "3.10", "3.12", "3.13", "3.14"):
        candidates = [*Path.home().glob(f".pyenv/versions/{version}.*/bin/python"), Path(f"/usr/bin/python{version}")]
        for candidate in candidates:
            if candidate.exists():
                found[version] = str(candidate)
    return list(found.values())


@pytest.mark.parametrize("python", _pythons() or [sys.executable])
def test_the_users_python_may_be_another(tmp_path: Path, python: str) -> None:
    write(
        tmp_path,
        mod_py="import sys\ndef run(out, n):\n    out.write_text('x' * n)\n    return {'python': list(sys.version_info[:2])}\n",
    )
    path = one(tmp_path, call="mod:run", args={"n": 3}, outputs=["out"])
    done = run("--config", str(path), "--step", "s", cwd=tmp_path, ZEN_RUNNER_PYTHON=python, ZEN_RUNNER_RUN_ID="r")
    assert done.code == 0, done.errors
    version = subprocess.run([python, "-c", "import sys; print(list(sys.version_info[:2]))"], capture_output=True, text=True)
    assert results(tmp_path, "r", "s")[0]["values"] == {"python": json.loads(version.stdout)}


def test_no_python_for_the_step(tmp_path: Path) -> None:
    write(tmp_path, mod_py="def run(): pass\n")
    path = one(tmp_path, call="mod:run")
    done = run("--config", str(path), "--step", "s", cwd=tmp_path, ZEN_RUNNER_PYTHON="python-of-nobody")
    assert (done.code, done.record["class"]) == (76, "placement")


def test_code_directory_that_is_not_here(tmp_path: Path) -> None:
    path = config(tmp_path, code=str(tmp_path / "elsewhere"), steps={"s": {"run": ["true"]}})
    done = run("--config", str(path), "--step", "s", cwd=tmp_path)
    assert (done.code, done.record["class"]) == (78, "config")
    assert "code" in done.record["message"]


def test_works_with_closed_standard_streams(tmp_path: Path) -> None:
    path = one(tmp_path, run=[SH, "-c", 'echo data > "$ZEN_OUTPUT_X"; echo out; echo err >&2'], outputs=["x"])
    command = " ".join(running.argv("--config", str(path), "--step", "s")) + " <&- >&- 2>&-"
    env = running.environment(ZEN_RUNNER_RUN_ID="r")
    done = subprocess.run([SH, "-c", command], cwd=tmp_path, env=env, timeout=60, check=False)
    assert done.returncode == 0
    assert results(tmp_path, "r", "s")[0]["class"] == "success"
    assert (tmp_path / "store/runs/r/s/1/out/x").read_text() == "data\n"


# -- the hot path -------------------------------------------------------------------------------------------------------------

ALLOWED = {
    # the standard library beyond what `python -I -S -c pass` has
    "__future__", "_json", "_sha256", "_sha2", "_signal", "errno", "gc", "resource", "select", "time",
    # what `os` is made of
    "_abc", "_collections_abc", "_stat", "abc", "genericpath", "os", "os.path", "posixpath", "stat",
}  # fmt: skip


def test_the_hot_path_imports_next_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "plain.json").write_text(document(tmp_path, "hello"))
    resolved = run("resolve", "--config", "plain.json", cwd=tmp_path)
    assert resolved.code == 0, resolved.errors
    (tmp_path / "resolved.json").write_bytes(resolved.stdout)
    script = f"""
import sys
before = set(sys.modules)
sys.path.insert(0, {str(running.ROOT)!r})
from entrypoint.__main__ import main
code = main(["--config", "resolved.json", "--step", "s"])
print(code, *sorted(set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], cwd=tmp_path, env=running.environment(), capture_output=True, text=True
    )
    hello, line = done.stdout.splitlines()
    code, *modules = line.split()
    assert (hello, code) == ("hello", "0")
    ours = ("entrypoint", "backends")
    assert sorted(name for name in set(modules) - ALLOWED if name.split(".")[0] not in ours) == []
