"""No hang, ever: a stop is served in every phase, one step holds up no other, and what a step leaves behind blocks nobody."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import running
from tests.support.configs import config
from tests.support.running import Ended, end, results, run, start
from tests.support.waiting import wait_until

SH = "sh"
GRACE = 1.0
SERVED = 2.5  # seconds past the grace period: one that is promised, and what a busy machine may need
HUGE = 200 << 30  # bytes of a sparse file that nobody has read to its end in time


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"run": [SH, "-c", script], "retry": {"limit": 0}, "grace_period": GRACE, **more}


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Serve a port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def slow_server() -> Iterator[str]:
    """Serve a file of which a byte comes now and then."""
    server = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        try:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not over.wait(0.2):
                connection.sendall(b"x")
        except OSError:
            pass

    def serve() -> None:
        while not over.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}/table.csv"
    over.set()
    server.close()


def stopped(process: subprocess.Popen[bytes], number: int = signal.SIGTERM, within: float = GRACE + SERVED) -> Ended:
    """Stop a run, and return how it ended, which has to be soon."""
    began = time.monotonic()
    process.send_signal(number)
    done = end(process)
    took = time.monotonic() - began
    assert took < within, f"the stop was served after {took:.1f} s: {done.errors}"
    return done


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("way", ["--step", "run"])
def test_a_stop_is_served_while_an_input_is_fetched(tmp_path: Path, slow_server: str, way: str, number: int) -> None:
    path = config(tmp_path, steps={"s": shell(f"touch {tmp_path}/began", inputs={"table": slow_server})})
    process = start("run", "--config", str(path), *(["--step", "s"] if way == "--step" else []), "--run-id", "r", cwd=tmp_path)
    wait_until((tmp_path / "store/runs/r/s/1/claim.json").exists)
    time.sleep(0.5)
    done = stopped(process, number)
    assert (done.code, done.record["class"]) == (143, "terminated")
    assert not (tmp_path / "began").exists()
    assert [record["class"] for record in results(tmp_path, "r", "s")] == ["terminated"]


def test_a_stop_is_served_while_an_input_is_hashed(tmp_path: Path) -> None:
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(HUGE)
    path = config(tmp_path, steps={"s": shell(f"touch {tmp_path}/began", inputs={"huge": str(tmp_path / "huge")})})
    process = start("--config", str(path), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r")
    wait_until((tmp_path / "store/runs/r/s/1/claim.json").exists)
    time.sleep(0.5)
    assert stopped(process).record["class"] == "terminated"
    assert not (tmp_path / "began").exists()


@pytest.mark.parametrize("way", ["--step", "run"])
def test_a_stop_is_served_while_outputs_are_published(tmp_path: Path, way: str) -> None:
    path = config(tmp_path, steps={"s": shell(f"truncate -s {HUGE} $ZEN_OUTPUT_O; touch {tmp_path}/ended", outputs=["o"])})
    process = start("run", "--config", str(path), *(["--step", "s"] if way == "--step" else []), "--run-id", "r", cwd=tmp_path)
    wait_until((tmp_path / "ended").exists)
    time.sleep(0.5)
    assert stopped(process).record["class"] == "terminated"


@pytest.mark.parametrize("way", ["--step", "run"])
def test_a_stop_is_served_while_the_store_says_nothing(tmp_path: Path, silent_server: str, way: str) -> None:
    path = config(tmp_path, steps={"s": shell(f"touch {tmp_path}/began")}, store="s3://bucket/store")
    access = {"AWS_ENDPOINT_URL": silent_server, "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    process = start("run", "--config", str(path), *(["--step", "s"] if way == "--step" else []), cwd=tmp_path, **access)
    time.sleep(2)
    done = stopped(process, within=GRACE + SERVED + 2)  # the driver has a moment more, for run.json and its report
    assert (done.code, done.record["class"]) == (143, "terminated")
    assert not (tmp_path / "began").exists()


def test_a_stop_of_a_run_is_served_while_nobody_reads(tmp_path: Path) -> None:
    path = config(tmp_path, steps={"s": shell(f"touch {tmp_path}/ready; while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxx; done")})
    process = start("run", "--config", str(path), cwd=tmp_path)
    wait_until((tmp_path / "ready").exists)
    time.sleep(1)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)
    assert process.returncode == 143 and time.monotonic() - began < GRACE + SERVED
    process.communicate()


def test_a_timeout_ends_a_fetch(tmp_path: Path, slow_server: str) -> None:
    path = config(tmp_path, steps={"s": shell(f"touch {tmp_path}/began", inputs={"table": slow_server}, timeout="1s")})
    began = time.monotonic()
    done = run("--config", str(path), "--step", "s", cwd=tmp_path)
    assert (done.code, done.record["class"]) == (124, "timeout") and time.monotonic() - began < 10
    assert "to fetch its inputs" in done.record["message"] and not (tmp_path / "began").exists()


def test_a_timeout_ends_a_publication(tmp_path: Path) -> None:
    path = config(tmp_path, steps={"s": shell(f"truncate -s {HUGE} $ZEN_OUTPUT_O", outputs=["o"], timeout="1s")})
    done = run("--config", str(path), "--step", "s", cwd=tmp_path)
    assert (done.code, done.record["class"]) == (124, "timeout") and "to publish its outputs" in done.record["message"]


def test_a_fetch_holds_up_no_other_step(tmp_path: Path, slow_server: str) -> None:
    steps = {
        "slow": shell("true", inputs={"table": slow_server}, timeout="6s"),
        "watch": shell("while :; do echo tick; sleep 0.2; done", timeout="2s"),
    }
    path = config(tmp_path, steps=steps)
    process = start("run", "--config", str(path), "--run-id", "r", "--keep-going", "--max-parallel", "2", cwd=tmp_path)
    wait_until((tmp_path / "store/runs/r/watch/1/result.json").exists, seconds=5)  # the fetch goes on for 6 s
    assert not (tmp_path / "store/runs/r/slow/1/result.json").exists()
    done = end(process)
    assert done.stdout.count(b"tick") > 3
    assert [results(tmp_path, "r", name)[0]["class"] for name in steps] == ["timeout", "timeout"]


LATER = 'd=$(dirname $(dirname $(dirname $(dirname "$ZEN_VALUES"))))/b/1; mkdir -p $d; '


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("mkfifo $ZEN_VALUES", "user"),
        ("mkfifo f; ln -s $PWD/f $ZEN_VALUES", "user"),
        ("mkdir $ZEN_VALUES", "user"),
        ("rm -rf $(dirname $ZEN_VALUES)/out", "success"),
        ("d=$(dirname $(dirname $ZEN_VALUES))/log; mkdir -p $d; mkfifo $d/000001.txt; sleep 0.2; echo hello", "success"),
        (LATER + "mkfifo $d/result.json", "user"),
        (LATER + "mkfifo $d/claim.json", "user"),
        (LATER + """echo '{"class":"success"}' > $d/result.json""", "user"),
        ("""printf '{"x":1e999}' > $ZEN_VALUES""", None),
        ("""printf '{"x":"\\\\ud800"}' > $ZEN_VALUES""", None),
    ],
)
def test_what_a_step_leaves_behind_blocks_nobody(tmp_path: Path, script: str, expected: str | None) -> None:
    steps = {"a": shell(script), "b": shell('echo "{a.values}"', after=["a"])}
    done = run(
        "run", "--config", str(config(tmp_path, steps=steps, code=str(tmp_path))), "--run-id", "r", cwd=tmp_path, timeout=30
    )
    assert done.record["class"] == expected or (expected is None and done.record["class"] in ("user", "config", "success"))


def test_a_pipe_in_place_of_a_shims_error_blocks_nobody(tmp_path: Path) -> None:
    body = "os.mkfifo(os.path.dirname(os.environ['ZEN_VALUES']) + '/error.json'); os._exit(3)"
    (tmp_path / "m.py").write_text(f"import os\ndef f():\n    {body}\n")
    path = config(tmp_path, steps={"s": {"call": "m:f", "retry": {"limit": 0}}}, code=str(tmp_path))
    done = run("--config", str(path), "--step", "s", cwd=tmp_path, timeout=30)
    assert (done.code, done.record["class"]) == (3, "user")


def test_a_step_has_no_terminal(tmp_path: Path) -> None:
    path = config(tmp_path, steps={"s": shell('read -r x < /dev/tty || echo "no terminal"; read -r y || echo "no input"')})
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execve(sys.executable, running.argv("run", "--config", str(path)), running.environment())
    seen, until = b"", time.monotonic() + 30
    while time.monotonic() < until:
        if select.select([fd], [], [], 0.5)[0]:
            try:
                data = os.read(fd, 4096)
            except OSError:
                break
            seen += data
    _, status = os.waitpid(pid, os.WNOHANG if time.monotonic() >= until else 0)
    os.close(fd)
    assert os.waitstatus_to_exitcode(status) == 0 and b"no terminal" in seen and b"no input" in seen


def test_a_progress_bar_is_seen_while_it_grows(tmp_path: Path) -> None:
    script = f"for i in 1 2 3 4; do printf '\\r %s0%%' $i; sleep 0.1; done; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
    process = start("run", "--config", str(config(tmp_path, steps={"s": shell(script)})), cwd=tmp_path)
    assert process.stdout is not None
    line = process.stdout.readline()
    (tmp_path / "go").touch()
    assert end(process).code == 0
    assert line == b"s |  10%\n"


def test_a_second_driver_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = config(tmp_path, steps={"s": shell(f"touch {tmp_path}/ready; while :; do sleep 0.05; done")})
    assert run("submit", "--config", str(path), "--run-id", "r", cwd=tmp_path).code == 0
    record = tmp_path / "store/runs/r/run.json"
    wait_until((tmp_path / "ready").exists)
    before = record.read_bytes()
    second = run("run", "--config", str(path), "--run-id", "r", cwd=tmp_path)
    assert (second.code, second.record["class"]) == (73, "duplicate")
    assert record.read_bytes() == before
    said = run("status", "r", "--store", str(tmp_path / "store"), "--output", "json", cwd=tmp_path)
    assert json.loads(said.stdout)["state"] == "running", said
    assert run("cancel", "r", "--store", str(tmp_path / "store"), cwd=tmp_path).code == 0
    wait_until(lambda: json.loads(record.read_bytes())["state"] == "terminated")


def test_of_many_drivers_at_once_one_runs(tmp_path: Path) -> None:
    path = config(tmp_path, steps={"a": shell("sleep 3"), "b": shell("true", after=["a"])})
    drivers = [start("run", "--config", str(path), "--run-id", "r", cwd=tmp_path) for _ in range(4)]
    codes = sorted(end(driver).code for driver in drivers)
    assert codes == [0, 73, 73, 73]
    assert json.loads((tmp_path / "store/runs/r/run.json").read_bytes())["state"] == "success"


@pytest.mark.parametrize("way", ["--step", "run"])
def test_two_streams_that_end_in_one_file_keep_their_order(tmp_path: Path, way: str) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do echo out $i; echo err $i >&2; done"
    path = config(tmp_path, steps={"s": shell(script)})
    command = running.argv("run", "--config", str(path), "--run-id", "r", *(["--step", "s"] if way == "--step" else []))
    with open(tmp_path / "all", "wb") as file:
        subprocess.run(command, cwd=tmp_path, env=running.environment(), stdout=file, stderr=subprocess.STDOUT, check=True)
    lines = [f"{word} {number}" for number in range(1, 9) for word in ("out", "err")]
    assert (tmp_path / "store/runs/r/s/1/log/000001.txt").read_text().splitlines() == lines
    said = (tmp_path / "all").read_text()
    assert [line.removeprefix("s | ") for line in said.splitlines() if line.removeprefix("s | ") in lines] == lines
