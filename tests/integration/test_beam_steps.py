"""Steps on Beam's direct runner, through the real entrypoint: what they leave, how they fail, what is left of them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import configs, running
from tests.support.frameworks import python_with
from tests.support.processes import MARK, marked
from tests.support.waiting import wait_until

PIPELINES = """
    import os, sys, time
    import apache_beam as beam
    from apache_beam.metrics import Metrics
    from apache_beam.options.pipeline_options import PipelineOptions

    class Own(PipelineOptions):
        @classmethod
        def _add_argparse_args(cls, parser):
            parser.add_argument("--shout", action="store_true")

    class Measure(beam.DoFn):
        def __init__(self):
            self.seen = Metrics.counter("shop", "seen")
            self.size = Metrics.distribution("shop", "size")
        def process(self, element):
            self.seen.inc()
            self.size.update(element)
            yield element, os.getpid()

    def count(pipeline, inputs, outputs, first, last=10):
        options = pipeline.options.view_as(Own)
        numbers = pipeline | beam.Create(range(first, last)) | beam.Reshuffle() | "Measure" >> beam.ParDo(Measure())
        numbers | "N" >> beam.Map(lambda pair: str(pair[0])) | "W" >> beam.io.WriteToText(outputs["numbers"] + "/part")
        numbers | "P" >> beam.Map(lambda pair: str(pair[1])) | "V" >> beam.io.WriteToText(outputs["pids"] + "/part")
        return {"shout": options.shout, "driver": os.getpid(), "temp": pipeline.options.get_all_options()["temp_location"]}

    def check(number):
        if number == 2:
            raise ValueError("two is " + "x" * 3000 + " not welcome")
        return number

    def fails_in_a_worker(pipeline, inputs, outputs):
        pipeline | beam.Create([1, 2, 3]) | "Check" >> beam.Map(check)

    def dies_in_a_worker(pipeline, inputs, outputs):
        pipeline | beam.Create([1, 2]) | beam.Reshuffle() | beam.Map(lambda number: os.kill(os.getpid(), 9))

    def cannot_be_sent(pipeline, inputs, outputs):
        numbers = (number for number in [1, 2])
        pipeline | beam.Create([1]) | beam.Map(lambda number: next(numbers))

    def fails_while_building(pipeline, inputs, outputs):
        return {"x": inputs["missing"]}

    def join(pipeline, inputs, outputs):
        parts = [pipeline | url >> beam.io.ReadFromText(url) for url in inputs["parts"]]
        parts | beam.Flatten() | beam.io.WriteToText(outputs["all"] + "/part", num_shards=1)

    def beside(pipeline, inputs, outputs):
        pipeline | beam.Create(["a"]) | beam.io.WriteToText(outputs["x"], num_shards=2)

    def sleep(number, folder):
        open(os.path.join(folder, "%d" % os.getpid()), "w").close()
        time.sleep(300)

    def slow(pipeline, inputs, outputs, folder):
        pipeline | beam.Create([1, 2]) | beam.Reshuffle() | beam.Map(sleep, folder)
"""


@pytest.fixture(scope="module")
def python() -> str:
    """The step's Python, which has Beam."""
    return python_with("apache_beam")


def pipeline(folder: Path, function: str, _options: dict[str, Any] | None = None, /, **step: Any) -> Path:
    """Write a config of one step, ``a``, and return its path."""
    configs.write(folder, pipelines_py=PIPELINES)
    block = {"type": "processing", "source": "direct", "args": _options or {}}
    one = {"beam": f"pipelines:{function}", "backend": block, **step}
    return configs.config(folder, code=str(folder), retry={"limit": 0}, steps={"a": one})


def go(path: Path, python: str, *, expect: int = 0, **env: str) -> tuple[running.Ended, dict[str, Any]]:
    """Run step ``a`` and return how it ended, and its record in the store."""
    folder = path.parent
    ended = running.run(
        "--config", str(path), "--step", "a", "--run-id", "r", cwd=folder, timeout=120,
        env={"ZEN_RUNNER_PYTHON": python, MARK: str(folder), **env},
    )  # fmt: skip
    assert ended.code == expect, ended.errors
    assert marked(folder) == {}
    (record,) = running.results(folder, "r", "a")
    return ended, record


def lines(folder: Path, output: str) -> list[str]:
    """Return the lines of an output's files."""
    return [line for path in sorted((folder / "store/runs/r/a/1/out" / output).iterdir()) for line in path.read_text().split()]


def metric(record: dict[str, Any], kind: str, name: str) -> Any:
    """Return the value of a metric in a record."""
    (found,) = [one for one in record["metrics"][kind] if one["name"] == name]
    assert (found["step"], found["namespace"]) == ("Measure", "shop")
    return found["value"]


# -- what comes out -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading", "multi_processing"])
def test_outputs_values_and_metrics_however_the_workers_run(tmp_path: Path, python: str, mode: str) -> None:
    options = {"direct_num_workers": 2, "direct_running_mode": mode, "options": {"shout": True, "temp_location": "/t"}}
    step = {"args": {"first": 1}, "outputs": ["numbers", "pids"]}
    ended, record = go(pipeline(tmp_path, "count", options, **step), python)
    assert sorted(lines(tmp_path, "numbers"), key=int) == [str(number) for number in range(1, 10)]
    assert record["engine"] == "beam"
    assert metric(record, "counters", "seen") == 9
    assert metric(record, "distributions", "size") == {"sum": 45, "count": 9, "min": 1, "max": 9, "mean": 5.0}
    assert {name: record["values"][name] for name in ("shout", "temp")} == {"shout": True, "temp": "/t"}
    workers = set(lines(tmp_path, "pids"))
    assert (str(record["values"]["driver"]) in workers) == (mode != "multi_processing")
    assert record["outputs"]["numbers"]["kind"] == "dir" and "metrics" not in ended.record


def test_a_step_without_a_backend_runs_on_the_direct_runner(tmp_path: Path, python: str) -> None:
    path = pipeline(tmp_path, "count", args={"first": 8}, outputs=["numbers", "pids"])
    document = json.loads(path.read_text())
    del document["steps"]["a"]["backend"]
    path.write_text(json.dumps(document))
    _, record = go(path, python)
    assert lines(tmp_path, "pids") == [str(record["values"]["driver"])] * 2


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[bytes]]]:
    """A web proxy that answers nobody: its URL, and what was asked of it."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    client, _ = server.accept()
                except TimeoutError:
                    continue
                with client:
                    asked.append(client.recv(1000))

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
        over.set()
        thread.join()


def test_nothing_is_downloaded(tmp_path: Path, python: str, proxy: tuple[str, list[bytes]]) -> None:
    url, asked = proxy
    path = pipeline(tmp_path, "count", args={"first": 8}, outputs=["numbers", "pids"])
    go(path, python, http_proxy=url, https_proxy=url, HTTP_PROXY=url, HTTPS_PROXY=url)
    assert asked == []


def test_gathered_inputs_are_a_list_of_urls(tmp_path: Path, python: str) -> None:
    path = pipeline(tmp_path, "join", inputs={"parts": "make.out"}, outputs=["all"])
    document = json.loads(path.read_text())
    document["steps"]["make"] = {
        "foreach": ["x", "y", "z"],
        "run": ["sh", "-c", 'echo "$0" > "$ZEN_OUTPUT_OUT"', "{item}"],
        "outputs": ["out"],
    }
    path.write_text(json.dumps(document))
    ended = running.run("--config", str(path), "--run-id", "r", cwd=tmp_path, timeout=120, ZEN_RUNNER_PYTHON=python)
    assert ended.code == 0, ended.errors
    assert sorted(lines(tmp_path, "all")) == ["x", "y", "z"]


WORDCOUNT = ("python3", "-m", "apache_beam.examples.wordcount")


def test_beams_own_wordcount_runs_unmodified(tmp_path: Path, python: str) -> None:
    (tmp_path / "poem.txt").write_text("one fish two fish\nred fish blue fish\n")
    program = ["{args.python}", *WORDCOUNT[1:]]
    step = {
        "run": [*program, "--input", "{inputs.text}", "--output", "{outputs.counts}/part"],
        "args": {"python": python},
        "inputs": {"text": str(tmp_path / "poem.txt")},
        "outputs": ["counts"],
        "backend": {"type": "processing", "source": "direct", "args": {"options": {"no_such_option": "seen"}}},
    }
    ended, record = go(configs.config(tmp_path, code=None, steps={"a": step}), python)
    assert {"fish:", "4", "blue:"} <= set(lines(tmp_path, "counts"))
    assert "--no_such_option=seen" in ended.errors  # Beam's own warning: the program got the backend's options
    assert record["metrics"] == {}


# -- how it fails -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])
def test_a_failing_worker_is_told_by_its_own_traceback(tmp_path: Path, python: str, mode: str) -> None:
    options = {"direct_num_workers": 2, "direct_running_mode": mode}
    ended, record = go(pipeline(tmp_path, "fails_in_a_worker", options), python, expect=1)
    assert record["class"] == "user"
    said = f"ValueError: two is {'x' * 3000} not welcome [while running 'Check']"
    source = (tmp_path / "pipelines.py").read_text().splitlines()
    at = source.index('        raise ValueError("two is " + "x" * 3000 + " not welcome")') + 1
    assert record["message"] == f"{said} ({tmp_path}/pipelines.py:{at})"
    trace = record["traceback"].splitlines()
    assert trace[0] == "Traceback (most recent call last):" and trace[-1] == said
    assert re.findall(r'File "(.*?)", line (\d+), in (\w+)', record["traceback"]) == [
        (f"{tmp_path}/pipelines.py", str(at), "check")
    ]
    words = ended.stderr.rstrip(b"\n").rpartition(b"\n")[2]
    assert len(words) <= 4096 and json.loads(words)["traceback"] and "not welcome" in json.loads(words)["message"]


def test_a_worker_process_that_dies_ends_the_step(tmp_path: Path, python: str) -> None:
    """Beam's direct runner by itself waits for it for ever; here the entrypoint's 120 seconds would run out."""
    path = pipeline(tmp_path, "dies_in_a_worker", {"direct_running_mode": "multi_processing", "direct_num_workers": 2})
    _, record = go(path, python, expect=1)
    assert record["class"] == "user"
    assert record["message"].startswith("a worker process of the pipeline died (Worker subprocess exited with return code")


def test_a_function_that_cannot_be_sent_to_workers(tmp_path: Path, python: str) -> None:
    _, record = go(pipeline(tmp_path, "cannot_be_sent"), python, expect=1)
    assert record["class"] == "user" and len(record["message"]) < 500 and "\n" not in record["message"]
    assert "cannot pickle" in record["message"] and "make it in setup()" in record["message"]
    assert re.search(r"\(.*/pipelines\.py:\d+\)$", record["message"])


def test_a_pipeline_that_cannot_be_built(tmp_path: Path, python: str) -> None:
    _, record = go(pipeline(tmp_path, "fails_while_building"), python, expect=1)
    assert record["class"] == "user" and record["message"].startswith("KeyError: 'missing' (")
    assert record["traceback"].count("File ") == 1


@pytest.mark.parametrize(
    ("options", "step", "said"),
    [
        ({"options": {"tmp_location": "/t"}}, {}, "no pipeline option 'tmp_location' (did you mean 'temp_location'?)"),
        ({"options": {"autoscaling_algorithm": "fast"}}, {}, "a pipeline option can't be read"),
        ({"options": {"runner": "NoSuchRunner"}}, {}, "NoSuchRunner"),
        ({}, {"args": {"first": 1, "lats": 3}}, "pipelines:count takes no parameter 'lats'; its parameters: first, last"),
        ({}, {"args": {}}, "pipelines:count needs 'first', which no arg of the step is named"),
        ({}, {"beam": "pipelines:cuont"}, "module pipelines has no 'cuont' (did you mean 'count'?)"),
    ],
)
def test_a_wrong_config_is_told(tmp_path: Path, python: str, options: Any, step: Any, said: str) -> None:
    base: dict[str, Any] = {"args": {"first": 1}, "outputs": ["numbers", "pids"]}
    _, record = go(pipeline(tmp_path, "count", options, **{**base, **step}), python, expect=78)
    assert record["class"] == "config" and said in record["message"]


def test_without_beam_the_image_that_has_it_is_named(tmp_path: Path) -> None:
    path = pipeline(tmp_path, "count", args={"first": 1}, outputs=["numbers", "pids"])
    _, record = go(path, running.USER_PYTHON, expect=76)
    assert record["class"] == "placement" and "zen-runner:beam" in record["message"]
    assert record["message"].startswith("steps of kind beam need Apache Beam")


def test_shards_beside_the_output_are_told(tmp_path: Path, python: str) -> None:
    _, record = go(pipeline(tmp_path, "beside", outputs=["x"]), python, expect=1)
    assert record["class"] == "user"
    assert 'x-00000-of-00002 and 1 more beside it; write to outputs["x"] + "/part"' in record["message"]


def test_shards_beside_a_programs_output_are_told(tmp_path: Path) -> None:
    one = {"run": ["sh", "-c", 'touch "$0-00000-of-00001"', "{outputs.x}"], "outputs": ["x"]}
    _, record = go(configs.config(tmp_path, code=None, steps={"a": one}), running.USER_PYTHON, expect=1)
    assert "but there is x-00000-of-00001 beside it; write to {outputs.x}/part" in record["message"]


# -- what is left -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])
@pytest.mark.parametrize("end", ["timeout", "terminated"])
def test_a_stopped_step_leaves_no_worker(tmp_path: Path, python: str, mode: str, end: str) -> None:
    at_work = tmp_path / "at work"
    at_work.mkdir()
    options = {"direct_num_workers": 2, "direct_running_mode": mode}
    step = {"args": {"folder": str(at_work)}, "grace_period": 5, **({"timeout": 15} if end == "timeout" else {})}
    path = pipeline(tmp_path, "slow", options, **step)
    arguments = ("--config", str(path), "--step", "a", "--run-id", "r")
    process = running.start(*arguments, cwd=tmp_path, **{"ZEN_RUNNER_PYTHON": python, MARK: str(tmp_path)})
    try:
        wait_until(lambda: list(at_work.iterdir()), subject="a worker's start")
        here = int(next(at_work.iterdir()).name)
        assert here in marked(tmp_path)
        if end == "terminated":
            process.send_signal(signal.SIGTERM)
        ended = running.end(process)
    finally:
        process.kill()
    assert (ended.code, ended.record["class"]) == {"timeout": (124, "timeout"), "terminated": (143, "terminated")}[end]
    assert marked(tmp_path) == {} and not os.path.exists(f"/proc/{here}/exe")


@pytest.mark.timeout(600)  # it may have the image to build
@pytest.mark.engine
@pytest.mark.xdist_group("image")
def test_beams_own_wordcount_runs_unmodified_in_our_image(tmp_path: Path, beam_image: str) -> None:
    """As a `run` step that names no image: it gets the variant that it needs."""
    (tmp_path / "text").write_text("two one two\n")
    step = {
        "run": [*WORDCOUNT, "--input", "{inputs.text}", "--output", "{outputs.counts}/part"],
        "inputs": {"text": str(tmp_path / "text")},
        "outputs": ["counts"],
        "backend": "direct",
    }
    path = configs.config(tmp_path, code=None, steps={"a": step})
    ended = running.run("run", "--config", str(path), "--backend", "docker", "--run-id", "r", cwd=tmp_path, timeout=120)
    assert ended.code == 0, ended.errors
    (found,) = (tmp_path / "store/runs/r/a/1/out/counts").iterdir()
    assert sorted(found.read_text().splitlines()) == ["one: 1", "two: 2"]
    assert json.loads((tmp_path / "store/runs/r/a/1/replay.json").read_text())["image"] == beam_image
