"""What the beam orchestrator makes of a config, and what its program makes of that without Beam."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import outcome
from backends.errors import ConfigError, UsageError
from backends.execution import Execution
from backends.orchestrator.beam import OrchestratorBeamBackend, pipeline, retry_policy
from backends.orchestrator.beam.launchers import AnnouncedOrder
from backends.store import open_store
from tests.contract.suite import GOLDEN

CONFIG: dict[str, Any] = json.loads((GOLDEN / "pipeline.json").read_text())
WORKERS = {
    "worker_machine_type": "e2-medium",
    "num_workers": 4,
    "max_num_workers": 10,
    "disk_size_gb": 100,
    "autoscaling_algorithm": "THROUGHPUT_BASED",
}


@pytest.mark.parametrize("runner", ["DirectRunner", "directrunner", "direct", "apache_beam.runners.direct.DirectRunner"])
def test_the_local_runner_has_no_worker_options(runner: str) -> None:
    backend = OrchestratorBeamBackend(runner=runner, options={"direct_num_workers": 2})
    job, *steps = backend.render(CONFIG)
    assert backend.runs_here() and job["driven"] and job["options"] == {"direct_num_workers": 2}
    assert steps[0]["step"] == "ingest"


@pytest.mark.parametrize("runner", ["PortableRunner", "DataflowRunner", "my.own.Runner"])
def test_other_runners_get_the_worker_options_and_an_option_counts_more(runner: str) -> None:
    backend = OrchestratorBeamBackend(runner=runner, num_workers=7, options={"disk_size_gb": 30, "region": "europe-west1"})
    job = backend.render(CONFIG)[0]
    assert not backend.runs_here() and not job["driven"]
    assert job["options"] == {**WORKERS, "num_workers": 7, "disk_size_gb": 30, "region": "europe-west1"}


def test_steps_come_after_their_parents_and_name_them() -> None:
    seen: set[str] = set()
    for step in OrchestratorBeamBackend().render(CONFIG)[1:]:
        assert step["parents"] == CONFIG["steps"][step["step"]]["parents"] and seen.issuperset(step["parents"])
        seen.add(step["step"])
    assert seen == set(CONFIG["steps"])


def test_a_config_in_a_bucket_goes_by_its_digest() -> None:
    env = OrchestratorBeamBackend().render({**CONFIG, "store": "s3://bucket/prefix/"}, "r")[1]["env"]
    assert env["ZEN_RUNNER_CONFIG"].startswith("ref:s3://bucket/prefix/configs/") and "#sha256=" in env["ZEN_RUNNER_CONFIG"]
    assert env["ZEN_RUNNER_RUN_ID"] == "r"


@given(code=st.integers(1, 255), on=st.sets(st.sampled_from(outcome.RETRIABLE)))
def test_a_pardo_retries_just_what_the_driver_does(code: int, on: set[str]) -> None:
    policy = retry_policy({"limit": 1, "backoff": 1.0, "on": sorted(on)})
    name = outcome.row_of(code).name
    assert pipeline.is_retried(policy, code) == outcome.is_retried(name, code, on)


@pytest.mark.parametrize(
    ("args", "place"),
    [
        ({"runner": ""}, "args.runner"),
        ({"max_parallel": 0}, "args.max_parallel"),
        ({"startup_timeout": 0.0}, "args.startup_timeout"),
        ({"num_workers": 0}, "args.num_workers"),
        ({"program": []}, "args.program"),
        ({"mounts": ["data"]}, "args.mounts"),
        ({"options": {"runner": "x"}}, "args.options.runner"),
        ({"options": {"--region": "x"}}, "args.options.--region"),
        ({"options": {"a": {"b": 1}}}, "args.options.a"),
        ({"options": {"a": None}}, "args.options.a"),
        ({"options": {"a": [[1]]}}, "args.options.a"),
    ],
)
def test_wrong_arguments_are_told_with_their_place(args: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigError) as error:
        OrchestratorBeamBackend(**args)
    assert place in [problem.path for problem in error.value.problems]


def test_the_local_runner_needs_the_launcher_of_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="zen-runner run"):
        OrchestratorBeamBackend().run(Execution(CONFIG, "r", open_store(str(tmp_path))))


class _Talk:
    """What of Beam's program the order reads."""

    def __init__(self) -> None:
        from collections import deque

        self.reached: Any = deque()


def test_a_step_is_taken_when_its_parents_ended_and_beam_came_to_it() -> None:
    beam = _Talk()
    order = AnnouncedOrder({"steps": {"a": {"parents": []}, "b": {"parents": ["a"]}, "c": {"parents": []}}}, beam)  # type: ignore[arg-type]
    assert order.take() is None and order.held() and order.waiting() == ["a", "c"]
    beam.reached += ["c", "b", "c"]
    assert order.take() == "c" and order.take() is None and order.waiting() == ["a"]
    beam.reached.append("a")
    assert order.take() == "a" and order.take() is None and not order.held()
    order.done("a")
    assert order.take() == "b" and order.take() is None and not order.held()


def test_the_reason_of_a_failed_step_is_found_in_a_runners_traceback() -> None:
    text = 'Pipeline failed in state FAILED: Traceback\n  File "x"\n'
    text += "RuntimeError: zen-runner: step 'a' failed [while running 'last step']"
    assert pipeline.first_line(RuntimeError(text)) == "step 'a' failed"
    assert pipeline.first_line(ValueError("two\nlines")) == "ValueError: two"
