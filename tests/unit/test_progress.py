"""What a run says: plain lines, JSON lines, the live table on a real terminal, and the report at its end."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from backends.store import open_store
from backends.store.base import Store
from backends.text import bytes_in_words, seconds_in_words
from entrypoint.cli.report import ROWS, final_report
from entrypoint.cli.reporters import STDERR, STDOUT, Json, Lines, Splitter
from entrypoint.cli.reporters import splitter as splitter_module
from entrypoint.cli.reporters.splitter import LINE, PROGRESS
from entrypoint.cli.terminal import write_fd
from tests.support.claiming import claim


class Written:
    """Keeps what is written to our streams."""

    def __init__(self) -> None:
        self.streams = {STDOUT: b"", STDERR: b""}

    def __call__(self, fd: int, data: bytes) -> None:
        self.streams[fd] += data

    @property
    def out(self) -> str:
        return self.streams[STDOUT].decode()

    @property
    def err(self) -> str:
        return self.streams[STDERR].decode()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "runs"))


def config(*steps: str) -> dict[str, Any]:
    return {"name": "demo", "steps": {name: {} for name in steps}}


def record(step: str, kind: str = "success", **more: Any) -> dict[str, Any]:
    code = {"success": 0, "user": 3, "infra": 69}[kind]
    return {
        "run": "r1",
        "step": step,
        "attempt": 1,
        "class": kind,
        "exit_code": code,
        "message": "",
        "seconds": 1.25,
        "status": code,
        "signal": None,
        "outputs": {},
        "values": {},
        "cached_from": None,
        **more,
    }


def summary(*last: dict[str, Any], kind: str = "success", **more: Any) -> dict[str, Any]:
    steps = {entry["step"]: entry for entry in last}
    return {"run": "r1", "class": kind, "message": "", "seconds": 2.0, "resumed": [], "steps": steps, "skipped": {}, **more}


def test_spans_and_sizes() -> None:
    spans = (0, 0.004, 0.42, 9.994, 9.996, 59.94, 59.96, 125, 3600, 7325)
    assert [seconds_in_words(span) for span in spans] == [
        *("0 ms", "4 ms", "0.42 s", "9.99 s", "10.0 s", "59.9 s", "1m00s", "2m05s", "1h00m", "2h02m")
    ]
    assert [bytes_in_words(number) for number in (0, 999, 1000, 13_200, 999_960, 5 * 10**9, 3 * 10**12)] == [
        *("0 B", "999 B", "1.0 kB", "13.2 kB", "1.0 MB", "5.0 GB", "3.0 TB")
    ]


def test_output_is_cut_into_lines() -> None:
    splitter = Splitter(["a", "train"])
    assert splitter.feed("a", STDOUT, b"one\ntw") == [b"one"]
    assert splitter.feed("a", STDERR, b"error\n") == [b"error"]
    assert splitter.feed("a", STDOUT, b"o\n\nthree") == [b"two", b""]
    assert splitter.rest("a", STDOUT) == [b"three"]
    assert splitter.rest("a", STDOUT) == []
    assert splitter.feed("a", STDOUT, b"x" * LINE) == [b"x" * LINE]
    bar = b"\r 10%\r 55%\r100%\r"
    assert splitter.render("a", [bar, b"plain"]) == b"a     | 100%\na     | plain\n"


def test_a_progress_bar_is_shown_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(splitter_module, "monotonic", lambda: now)
    splitter = Splitter(["a"])
    assert splitter.feed("a", STDERR, b"\r 10%") == [b"\r 10%"]
    assert splitter.feed("a", STDERR, b"\r 20%") == []
    now = PROGRESS
    assert splitter.feed("a", STDERR, b"\r 30%\r 40%") == [b"\r 40%"]
    assert splitter.feed("a", STDERR, b"\rdone\nnext\n") == [b"\r 40%\rdone", b"next"]
    assert splitter.feed("a", STDERR, b"10%\r") == []  # bars that end a state with it
    assert splitter.feed("a", STDERR, b"20%\r") == [b"\r20%\r"]
    assert splitter.feed("a", STDERR, b"30%\r") == []
    assert splitter.rest("a", STDERR) == [b"\r30%\r"]
    assert splitter.feed("a", STDERR, b"x\r1") == [b"\r1"]
    assert splitter.feed("a", STDERR, b"\n") == []  # it ended as it was shown
    assert splitter.feed("a", STDERR, b"end\r") == [] and splitter.feed("a", STDERR, b"\n") == [b"end\r"]


def test_lines(store: Store) -> None:
    written = Written()
    reporter = Lines(config("clean", "train", "last"), store, "zen-runner run --run-id r1", write=written, environ={})
    reporter.report("run_started", run="r1", steps=["clean", "train", "last"], resumed=["clean"])
    reporter.report("step_started", step="train", attempt=1)
    reporter.output("train", STDOUT, b"epoch 1\nhalf a li")
    reporter.output("train", STDERR, b"careful\n")
    reporter.report("step_retry", record=record("train", "infra", message="no store"), delay=1.5)
    reporter.report("step_started", step="train", attempt=2)
    reporter.report("step_finished", record=record("train", "user", attempt=2, message="exited with status 3"))
    reporter.report("step_skipped", step="last", because="train failed")
    reporter.report("something_new", with_fields=1)
    assert written.out == "train | epoch 1\ntrain | half a li\n"
    said = [line.partition(" ")[2] if line[2] == ":" else line for line in written.err.splitlines()]
    assert said == [
        "run r1: 3 steps, 1 of them finished before",
        "train  started",
        "train | careful",
        "train  infra (exit 69) in 1.25 s: no store; again in 1.50 s",
        "train  started (attempt 2)",
        "train  user (exit 3) in 1.25 s: exited with status 3",
        "last   skipped: train failed",
    ]
    assert "\x1b" not in written.err


def test_quiet_says_nothing_of_a_success_and_all_of_a_failure(store: Store) -> None:
    for kind in ("success", "user"):
        written = Written()
        reporter = Lines(config("train"), store, "resume-command", write=written, quiet=True, environ={})
        reporter.report("run_started", run="r1", steps=["train"], resumed=[])
        reporter.output("train", STDOUT, b"hello\n")
        reporter.report("step_finished", record=record("train", kind))
        reporter.report("run_finished", summary=summary(record("train", kind), kind=kind))
        assert written.out == "train | hello\n"
        assert ("resume with: resume-command" in written.err) == (kind == "user")


def test_json_keeps_stdout_for_events(store: Store) -> None:
    written = Written()
    reporter = Json(config("train"), store, "", write=written, environ={})
    reporter.report("run_started", run="r1", steps=["train"], resumed=[])
    reporter.output("train", STDOUT, b'{"event":"forged"}\nrest')
    reporter.report("step_finished", record=record("train"))
    reporter.report("run_finished", summary=summary(record("train")))
    events = [json.loads(line) for line in written.out.splitlines()]
    assert [event["event"] for event in events] == ["run_started", "step_finished", "run_finished"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["time"]) for event in events)
    assert events[1]["record"] == record("train")
    assert events[2]["summary"]["class"] == "success"
    assert written.err == 'train | {"event":"forged"}\ntrain | rest\n'


def test_report_of_a_success_names_what_was_made(store: Store) -> None:
    artifact: dict[str, Any] = {
        "key": "runs/r1/train/1/out/model",
        "digest": "sha256:0",
        "size": 13_200,
        "kind": "file",
        "files": 1,
    }
    good = record("train", outputs={"model": artifact}, values={"accuracy": 0.97, "long": "x" * 500})
    lines = final_report(summary(good, resumed=["train"]), config("train"), store, "")
    text = "\n".join(lines)
    assert re.search(r"train\.model +13\.2 kB +" + re.escape(store.url_of(artifact["key"])), text)
    assert re.search(r"train\.accuracy +0\.97", text)
    assert "x" * 198 + "…" in text
    assert "x" * 201 not in text
    assert re.search(r"train +success +1\.25 s +1 \(earlier\)", text)
    assert lines[-1] == "run r1: success in 2.00 s"


def test_report_of_a_failure_says_all_that_helps(store: Store) -> None:
    attempt = claim(store, "r1", "train", {})
    log = "".join(f"line {number}\n" for number in range(5000))
    store.put(f"{attempt.prefix}/log/000001.txt", log.encode())
    bad = record("train", "user", message="exited with status 3")
    attempt.finish(bad)
    text = "\n".join(final_report(summary(bad, kind="user"), config("train", "last"), store, "the resume command"))
    assert "step 'train' failed: user (exit 3)" in text
    assert "exited with status 3" in text
    assert "line 4988" in text
    assert "line 4987" not in text
    assert store.url_of("runs/r1/train/1/log") in text
    assert text.endswith("resume with: the resume command")
    assert re.search(r"last +skipped", text)


def test_report_of_a_run_that_no_step_failed(store: Store) -> None:
    stopped = summary(kind="terminated", message="the run was stopped")
    assert "the run was stopped" in final_report(stopped, config("train"), store, "")


def test_report_of_a_large_pipeline_stays_short(store: Store) -> None:
    names = [f"s{number}" for number in range(5000)]
    good = [record(name) for name in names]
    assert len(final_report(summary(*good), config(*names), store, "")) < 10
    bad = [record(name, "user") for name in names]
    lines = final_report(summary(*bad, kind="user"), config(*names), store, "")
    assert len(lines) < ROWS + 40
    assert "… and 4900 more steps" in lines
    assert "… and 4995 more failed steps" in lines


def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    writer = threading.Thread(target=write_fd, args=(write, b"x" * (1 << 20)))  # more than a pipe holds
    writer.start()
    assert os.read(read, 10) == b"x" * 10
    os.close(read)
    writer.join(10)
    assert not writer.is_alive()
    write_fd(write, b"nobody hears this")
    with pytest.raises(BrokenPipeError):
        os.write(write, b"nor this")
    os.close(write)


@pytest.mark.parametrize(
    ("environ", "live", "colour"),
    [
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb", "NO_COLOR": ""}, False, False),
        ({"TERM": "", "NO_COLOR": ""}, False, False),
    ],
)
@pytest.mark.processes
def test_terminal(tmp_path: Path, environ: dict[str, str], live: bool, colour: bool) -> None:
    said = on_terminal(
        """
        store = open_store(sys.argv[1])
        config = {"name": "demo", "steps": {"clean": {}, "train": {}}}
        reporter = reporter_for("text", config, store, "the resume command")
        reporter.report("run_started", run="r1", steps=["clean", "train"], resumed=["clean"])
        reporter.report("step_started", step="train", attempt=1)
        reporter.output("train", 1, b"to stdout\\n")
        reporter.output("train", 2, b"to stderr\\n")
        time.sleep(0.4)
        reporter.report("step_finished", record={**RECORD, "step": "train"})
        reporter.report("run_finished", summary={**SUMMARY, "steps": {"train": {**RECORD, "step": "train"}}})
        reporter.close()
        """,
        tmp_path,
        environ,
    )
    for text in ("train | to stdout", "train | to stderr", "run r1: 2 steps", "run r1: success"):
        assert text in plain(said)
    assert ("running" in said) == live
    assert ("\x1b[2K" in said) == live
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]m", said)) == colour
    if live:
        assert said.rindex("\x1b[?25h") < said.rindex("success"), "the cursor is back before the report"


@pytest.mark.processes
def test_the_table_says_where_a_step_runs_that_runs_elsewhere(tmp_path: Path) -> None:
    said = on_terminal(
        """
        store = open_store(sys.argv[1])
        elsewhere = {"backend": {"type": "training", "source": "docker", "args": {}}}
        reporter = reporter_for("text", {"name": "demo", "steps": {"here": {}, "train": elsewhere}}, store, "the resume command")
        reporter.report("run_started", run="r1", steps=["here", "train"], resumed=[])
        for step in ("here", "train"):
            reporter.report("step_started", step=step, attempt=1)
            line = f"zen-runner: steps.{step} runs on docker as r1-job-{step}; waiting for it\\n"
            reporter.output(step, 2, line.encode())
        time.sleep(0.4)
        reporter.close()
        """,
        tmp_path,
        {"TERM": "xterm"},
    )
    table = [line for line in plain(said).splitlines() if "running" in line]
    assert any("on docker as r1-job-train" in line for line in table), table
    assert not any("r1-job-here" in line for line in table), table  # a step here may print what it likes


def on_terminal(code: str, tmp_path: Path, environ: dict[str, str]) -> str:
    """Run a few lines with both streams on a terminal, and return what it showed."""
    head = "import sys, time\nfrom backends.store import open_store\nfrom entrypoint.cli.reporters import reporter_for\n"
    head += f"RECORD = {record('x')!r}\nSUMMARY = {summary()!r}\n"
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", head + textwrap.dedent(code), str(tmp_path / "runs")],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, **environ},
    )
    os.close(theirs)
    said = b""
    try:
        while data := os.read(ours, 65536):
            said += data
    except OSError:  # Linux's way to say that the other end is closed
        pass
    os.close(ours)
    assert child.wait(30) == 0, said.decode()
    return said.decode()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
