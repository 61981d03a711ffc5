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


@pytest.mark.parametrize("text", ["[1]", "{", "NaN", '{"a": NaN}', "\xff"])
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
    "__future__", "_json", "_sha256", "_sha2", "_signal", "errno", "resource", "select", "time",
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
