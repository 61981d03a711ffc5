"""What the training backends ask their platforms for: one container, with references to secrets and no retries of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.base import TrainingBaseBackend
from backends.errors import ConfigError, PlacementError
from backends.orchestrator.remote.job import job_of
from backends.training.batch import TrainingBatchBackend
from backends.training.docker import TrainingDockerBackend
from backends.training.local import TrainingLocalBackend
from tests.support import configs

STEP = {"resources": {"cpu": 2, "memory": "1Gi", "gpu": 1}, "timeout": 100, "grace_period": 20, "retry": {"limit": 5}}
ARN = "arn:aws:ssm:eu-west-1:123456789012:parameter/key"
ENV = {"ZEN_RUNNER_CONFIG": "…", "ZEN_RUNNER_STEP": "train", "ZEN_RUNNER_RUN_ID": "r", "ZEN_RUNNER_ATTEMPT": "name"}


def render(
    backend: TrainingBaseBackend, environ: dict[str, str] | None = None, memory: int = 2**31, **document: Any
) -> list[dict[str, Any]]:
    config = configs.resolved({"train": STEP}, **document)
    job = job_of(config, "train", config["steps"]["train"], "r")
    return backend.render_job(job._replace(name="name", env=ENV, memory=memory), config, environ)


def test_batch_is_asked_for_one_attempt_behind_a_limit_of_its_own() -> None:
    secrets = {"KEY": {"aws": ARN}}
    definition, job = render(TrainingBatchBackend(queue="q", execution_role="arn"), secrets=secrets)
    assert definition["request"]["containerProperties"]["secrets"] == [{"name": "KEY", "valueFrom": secrets["KEY"]["aws"]}]
    resources = {item["type"]: item["value"] for item in definition["request"]["containerProperties"]["resourceRequirements"]}
    assert resources == {"VCPU": "2", "MEMORY": "2048", "GPU": "1"}
    request = job["request"]
    assert (request["jobName"], request["jobQueue"], request["retryStrategy"]) == ("name", "q", {"attempts": 1})
    assert request["timeout"]["attemptDurationSeconds"] > 120
    assert {item["name"]: item["value"] for item in request["containerOverrides"]["environment"]} == ENV


def test_batch_can_read_no_secret_of_this_machine() -> None:
    with pytest.raises(ConfigError, match=r"secrets\.KEY: AWS Batch can't read a secret by `env`"):
        render(TrainingBatchBackend(queue="q"), {"KEY": "hush"}, secrets={"KEY": {"env": "KEY"}})


def test_docker_is_asked_for_a_container_that_is_found_by_its_name() -> None:
    [document] = render(TrainingDockerBackend(), {"AWS_REGION": "eu-west-1"}, secrets={"KEY": {"aws": ARN}})
    body = document["container"]
    assert document["name"] == "name" and body["HostConfig"]["Memory"] == 2**31
    assert {"ZEN_RUNNER_STEP=train", "ZEN_RUNNER_RUN_ID=r", "ZEN_RUNNER_ATTEMPT=name", "AWS_REGION=eu-west-1"} <= set(body["Env"])
    assert json.loads(body["Labels"]["zen-runner.driver"])["pid"]  # who waits; what it left is removed once that is gone
    with pytest.raises(PlacementError, match=r"secrets\.KEY: \$KEY is not set"):
        render(TrainingDockerBackend(), {}, secrets={"KEY": {"env": "KEY"}})


def test_without_an_environment_nothing_of_this_process_is_in_it() -> None:
    backend = TrainingDockerBackend()
    one, two = (render(backend, secrets={"KEY": {"env": "KEY"}}) for _ in range(2))
    assert one == two and one[0]["container"]["Labels"]["zen-runner.driver"] == "{driver}"


def test_a_backend_without_a_platform_says_what_it_lacks() -> None:
    backend = TrainingLocalBackend()
    assert backend.runs_here() and not TrainingDockerBackend().runs_here()
    with pytest.raises(TypeError, match="or must define render_job"):
        render(backend)


@pytest.mark.parametrize("args", [{"queue": ""}, {"queue": "q", "startup_timeout": 0.0}, {"queue": "q", "memory": "x"}])
def test_wrong_arguments_are_named(args: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"args\."):
        TrainingBatchBackend(**args)
