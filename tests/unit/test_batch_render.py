"""What the batch orchestrator asks of AWS Batch, and what it makes of its answers; tests/contract/golden has one whole answer."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import outcome, wire
from backends.errors import ConfigError
from backends.orchestrator.batch import OrchestratorBatchBackend
from backends.orchestrator.batch.limits import BATCHS_OWN, FARGATE
from backends.orchestrator.batch.platform import BatchPlatform
from backends.orchestrator.batch.render import evaluate_on_exit
from backends.orchestrator.batch.states import REASON, status_of
from backends.states import CANCELLED, FAILED, PENDING, RUNNING, SUCCEEDED
from tests.emulators.moto_batch import retries as service_retries
from tests.support.configs import resolved

ROLE = "arn:aws:iam::123456789012:role/execution"
MODEL = botocore.session.get_session().get_service_model("batch")
JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


def render(
    steps: dict[str, Any],
    /,
    document: dict[str, Any] | None = None,
    done: tuple[str, ...] = (),
    **arguments: Any,
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return the definitions' requests, and the jobs' by job; every one is what botocore takes for its call."""
    backend = OrchestratorBatchBackend(**{"queue": "q", **arguments})
    definitions, jobs = [], {}
    for found in backend.render(resolved(steps, **(document or {})), done=frozenset(done)):
        operation = MODEL.operation_model(found["api"])
        report = ParamValidator().validate(found["request"], operation.input_shape)
        assert not report.has_errors(), report.generate_report()
        assert '"command"' not in json.dumps(found)
        if found["api"] == "SubmitJob":
            for edge in found["request"].get("dependsOn", []):
                assert edge["jobId"][1:-1] in jobs, "a job comes before one that it depends on"
            jobs[found["job"]] = found["request"]
        else:
            definitions.append(found["request"])
    names = {definition["jobDefinitionName"] for definition in definitions}
    assert len(names) == len(definitions) and names == {job["jobDefinition"] for job in jobs.values()}
    assert all(JOB_NAME.fullmatch(name) for name in [*names, *(job["jobName"] for job in jobs.values())])
    assert len({job["jobName"] for job in jobs.values()}) == len(jobs)
    return definitions, jobs


def one(step: dict[str, Any], /, **arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the definition's and the job's request of a pipeline of one step."""
    [definition], jobs = render({"a": step}, **arguments)
    return definition, jobs["a"]


def requirements(definition: dict[str, Any]) -> dict[str, str]:
    return {item["type"]: item["value"] for item in definition["containerProperties"]["resourceRequirements"]}


def variables(job: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["value"] for item in job["containerOverrides"]["environment"]}


def depends(job: dict[str, Any]) -> list[str]:
    return [edge["jobId"][1:-1] for edge in job.get("dependsOn", [])]


# -- resources -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"cpu": None, "memory": None, "gpu": 0}, {"VCPU": "1", "MEMORY": "2048"}),
        ({"cpu": 0.25, "memory": 2**20, "gpu": 0}, {"VCPU": "1", "MEMORY": "4"}),
        ({"cpu": 1.5, "memory": 10**9, "gpu": 2}, {"VCPU": "2", "MEMORY": "954", "GPU": "2"}),
    ],
)
def test_resources_on_ec2(wanted: dict[str, Any], found: dict[str, str]) -> None:
    assert requirements(one({"resources": wanted})[0]) == found


def test_a_step_that_says_nothing_gets_the_backends_defaults() -> None:
    definition, _ = one({}, vcpu=4, memory="16G")
    assert requirements(definition) == {"VCPU": "4", "MEMORY": "15259"}


@pytest.mark.parametrize("cpu", FARGATE)
def test_fargate_takes_its_own_pairs_only(cpu: float) -> None:
    for mib in (min(FARGATE[cpu]), max(FARGATE[cpu])):
        step = {"resources": {"cpu": cpu, "memory": mib * 2**20, "gpu": 0}}
        definition, _ = one(step, platform="FARGATE", execution_role=ROLE)
        assert requirements(definition) == {"VCPU": f"{cpu:g}", "MEMORY": str(mib)}
    step = {"resources": {"cpu": cpu, "memory": (max(FARGATE[cpu]) + 1) * 2**20, "gpu": 0}}
    pairs = r"0\.25 vCPU with 512, 1024, 2048 MiB; 0\.5 vCPU with"
    with pytest.raises(ConfigError, match=rf"^steps\.a\.resources: Fargate has no .*; it has {pairs}"):
        one(step, platform="FARGATE", execution_role=ROLE)


def test_fargate_in_full() -> None:
    options = {"platform": "FARGATE", "execution_role": ROLE, "ephemeral_storage": 50, "assign_public_ip": True}
    definition, _ = one({}, region="eu-west-1", **options)
    assert definition["platformCapabilities"] == ["FARGATE"]
    assert definition["containerProperties"] == {
        "image": "zen-runner:cpu",
        "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "2048"}],
        "executionRoleArn": ROLE,
        "environment": [{"name": "AWS_REGION", "value": "eu-west-1"}],
        "networkConfiguration": {"assignPublicIp": "ENABLED"},
        "ephemeralStorage": {"sizeInGiB": 50},
    }


def test_all_that_is_wrong_is_said_at_once() -> None:
    steps = {"a": {"resources": {"cpu": 3, "gpu": 1}}, "b": {"retry": {"limit": 10}}}
    with pytest.raises(ConfigError) as caught:
        render(steps, {"secrets": {"K": {"env": "K"}}}, platform="FARGATE", execution_role=ROLE)
    assert [problem.path for problem in caught.value.problems] == [
        *("secrets.K", "steps.a.resources.gpu", "steps.a.resources", "steps.b.retry.limit")
    ]
    assert "write K: {aws: ARN}" in str(caught.value) and "write 9 or less" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queue": ""}, r"args\.queue: is empty"),
        ({"platform": "FARGATE"}, r"args\.execution_role: Fargate needs one"),
        ({"platform": "LAMBDA"}, r"args\.platform"),
        ({"ephemeral_storage": 50}, r"args\.ephemeral_storage: is for Fargate only"),
        ({"platform": "FARGATE", "execution_role": ROLE, "ephemeral_storage": 20}, r"args\.ephemeral_storage: must be 21 to 200"),
        ({"platform": "FARGATE", "execution_role": ROLE, "mounts": ["/x"]}, r"args\.mounts: is for EC2 only"),
        ({"mounts": ["x"]}, r"args\.mounts: must be absolute"),
        ({"attempt_timeout": 59}, r"args\.attempt_timeout: must be at least 60 seconds, not 59"),
        ({"priority": 3}, r"args\.priority: counts among jobs with the same `share_identifier`"),
        ({"priority": 10000, "share_identifier": "a"}, r"args\.priority: must be 0 to 9999"),
        ({"memory": "2"}, r"args\.memory: '2' is only 2 bytes"),
        ({"vcpu": 0.0}, r"args\.vcpu"),
        ({"startup_timeout": 0.0}, r"args\.startup_timeout: must be more than 0"),
        ({"env": {"API_KEY": "x"}}, r"args\.env\.API_KEY: looks secret"),
        ({"env": {"AWS_BATCH_X": "x"}}, r"args\.env\.AWS_BATCH_X: is not yours to set"),
        ({"env": {"ZEN_RUNNER_STEP": "x"}}, r"args\.env\.ZEN_RUNNER_STEP: is not yours to set"),
        ({"tags": {str(n): "" for n in range(48)}}, r"args\.tags: Batch allows 50"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OrchestratorBatchBackend(**{"queue": "q", **arguments})


# -- the definition ------------------------------------------------------------------------------------------------------------


def test_a_definition_a_combination_of_image_and_resources() -> None:
    big = {"cpu": 8, "memory": None, "gpu": 0}
    definitions, jobs = render({"a": {}, "b": {}, "c": {"image": "x:1"}, "d": {"resources": big}, "e": {"timeout": 5.0}})
    assert len(definitions) == 3
    assert jobs["a"]["jobDefinition"] == jobs["b"]["jobDefinition"] == jobs["e"]["jobDefinition"]


def test_a_definitions_name_says_all_that_is_in_it() -> None:
    found = [
        one({}, **arguments)[0]["jobDefinitionName"]
        for arguments in (
            *({}, {"job_role": ROLE}, {"execution_role": ROLE}, {"region": "eu-west-1"}, {"user": "1:0"}, {"mounts": ["/x"]}),
            *({"env": {"A": "1"}}, {"env": {"A": "2"}}, {"tags": {"a": "b"}}, {"log_group": "/x"}),
        )
    ]
    assert len(set(found)) == len(found)
    assert one({})[0]["jobDefinitionName"] == found[0] == one({"timeout": 7.0}, queue="another")[0]["jobDefinitionName"]


def test_secrets_by_arn() -> None:
    arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:k"
    [definition], _ = render({"a": {}}, {"secrets": {"K": {"aws": arn}}}, execution_role=ROLE)
    assert definition["containerProperties"]["secrets"] == [{"name": "K", "valueFrom": arn}]
    with pytest.raises(ConfigError, match="read by the execution role"):
        render({"a": {}}, {"secrets": {"K": {"aws": arn}}})


@pytest.mark.parametrize("source", [{"env": "K"}, {"file": "/k"}, {"kubernetes": "s/k"}, {"gcp": "projects/p/secrets/k"}])
def test_a_secret_of_another_kind_is_refused(source: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=rf"^secrets\.K: AWS Batch can't read a secret by `{next(iter(source))}`; write K: "):
        render({"a": {}}, {"secrets": {"K": source}})


def test_mounts_user_and_log_group() -> None:
    container = one({}, mounts=["/fsx", "/efs"], user="1000:0", log_group="/zen")[0]["containerProperties"]
    assert container["volumes"] == [
        {"name": "mount0", "host": {"sourcePath": "/fsx"}},
        {"name": "mount1", "host": {"sourcePath": "/efs"}},
    ]
    assert [(point["sourceVolume"], point["containerPath"]) for point in container["mountPoints"]] == [
        ("mount0", "/fsx"),
        ("mount1", "/efs"),
    ]
    assert container["user"] == "1000:0"
    assert container["logConfiguration"] == {"logDriver": "awslogs", "options": {"awslogs-group": "/zen"}}


# -- the job -------------------------------------------------------------------------------------------------------------------


def test_the_contract_is_in_the_environment() -> None:
    document = resolved({"a": {"image": "zen-runner@sha256:00"}})
    [_, job] = OrchestratorBatchBackend(queue="q").render(document, "run-1")
    assert variables(job["request"]) == {
        "ZEN_RUNNER_CONFIG": wire.dumps(document),
        "ZEN_RUNNER_STEP": "a",
        "ZEN_RUNNER_RUN_ID": "run-1",
        "ZEN_RUNNER_IMAGE_DIGEST": "zen-runner@sha256:00",
    }


@pytest.mark.parametrize("size", [10, 5_000, 5_800, 6_000, 6_500, 7_000, 7_500, 8_192, 100_000, 500_000])
def test_the_overrides_fit_however_large_the_config_is(size: int) -> None:
    text = "".join(random.Random(7).choices('abc"\\é ', k=size))  # noqa: S311
    _, jobs = render({"a": {"args": {"text": text}}, "b" * 60: {}})
    for job in jobs.values():
        assert len(wire.dumps(job["containerOverrides"])) <= 8192 - BATCHS_OWN
    value = variables(jobs["a"])["ZEN_RUNNER_CONFIG"]
    if size == 10:
        assert value.startswith("{")
    if size == 5_000:
        assert value.startswith("gz:")
    if size >= 100_000:
        sha = wire.sha256(wire.dumps(resolved({"a": {"args": {"text": text}}, "b" * 60: {}})).encode())
        assert value == f"ref:s3://bucket/prefix/configs/{sha}.json#sha256={sha}"


def test_tags_share_and_priority() -> None:
    backend = OrchestratorBatchBackend(queue="q", tags={"team": "birds"}, share_identifier="s", priority=7)
    [_, document] = backend.render({**resolved({"a": {}}), "name": "x" * 300 + "é!"})
    job = document["request"]
    assert job["tags"] == {"team": "birds", "zen-runner.run": "RUN", "zen-runner.step": "a", "zen-runner.pipeline": "x" * 256}
    assert (job["shareIdentifier"], job["schedulingPriorityOverride"]) == ("s", 7)


@pytest.mark.parametrize(
    ("step", "argument", "found"),
    [
        ({}, None, None),
        ({}, 3600, 3600),
        ({"timeout": 1.0, "grace_period": 0.0}, None, 601),
        ({"timeout": 7200.5}, None, 7831),
        ({"timeout": 7200.0}, 60, 7830),
    ],
)
def test_batchs_own_timeout_is_behind_the_supervisors(step: dict[str, Any], argument: int | None, found: int | None) -> None:
    _, job = one(step, attempt_timeout=argument)
    assert job.get("timeout") == (None if found is None else {"attemptDurationSeconds": found})


def test_names_of_any_run_and_step_are_batchs() -> None:
    backend = OrchestratorBatchBackend(queue="q")
    steps = {"a": {}, "a-b_c": {}, "x" * 63: {}, "y" * 63: {"foreach": [0]}}
    found = []
    for run, store in itertools.product(("r", "R", "r.1", "r-1", "_" * 63, "x" * 63), ("s3://a", "s3://b")):
        documents = backend.render(resolved(steps, store=store), run)
        found += [document["request"]["jobName"] for document in documents if document["api"] == "SubmitJob"]
    assert all(JOB_NAME.fullmatch(name) for name in found)
    assert len({name.lower() for name in found}) == len(found) == 12 * 4  # the filter of ListJobs ignores case


# -- the graph -----------------------------------------------------------------------------------------------------------------


def through(job: str, jobs: dict[str, dict[str, Any]]) -> list[str]:
    """Return the jobs of steps that a job waits for, directly or through fan-in jobs."""
    found = []
    for name in depends(jobs[job]):
        found += through(name, jobs) if name.startswith("FAN-IN-") else [name]
    return found


@pytest.mark.parametrize("count", [1, 20, 21, 39, 40, 41, 400, 401, 1000])
def test_any_number_of_parents(count: int) -> None:
    parents = [f"p{number:04d}" for number in range(count)]
    steps = {**{name: {} for name in parents}, "last": {"after": parents, "image": "x:1"}, "also": {"after": parents}}
    _, jobs = render(steps)
    assert through("last", jobs) == through("also", jobs) == parents
    assert all(len(depends(job)) <= 20 for job in jobs.values())
    fan_in = [job for name, job in jobs.items() if name.startswith("FAN-IN-")]
    assert (count <= 20) == (not fan_in) and len(fan_in) <= count / 10, "two steps with the same parents share them"
    for job in fan_in:
        assert variables(job)["ZEN_RUNNER_STEP"] == "fan-in"
        assert wire.loads(variables(job)["ZEN_RUNNER_CONFIG"])["store"].startswith("/tmp/")


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_order_is_kept_whatever_the_graph(data: st.DataObject) -> None:
    names = [f"s{number}" for number in range(data.draw(st.integers(1, 60)))]
    parents = {
        name: data.draw(st.lists(st.sampled_from(names[:number]), unique=True)) if number else []
        for number, name in enumerate(names)
    }
    done = data.draw(st.sets(st.sampled_from(names)))
    _, jobs = render({name: {"after": parents[name]} for name in names}, done=tuple(done))
    assert {job for job in jobs if not job.startswith("FAN-IN-")} == set(names) - done
    for name in set(names) - done:
        assert sorted(through(name, jobs)) == sorted(set(parents[name]) - done)


def test_a_foreach_step_is_one_array_job() -> None:
    steps = {
        "first": {},
        "many": {"foreach": list(range(300)), "after": ["first"]},
        "last": {"after": ["first", "many"]},
    }
    _, jobs = render(steps)
    assert list(jobs) == ["first", "many", "last"]
    assert jobs["many"]["arrayProperties"] == {"size": 300}
    assert variables(jobs["many"])["ZEN_RUNNER_STEP"] == "many"
    assert depends(jobs["many"]) == ["first"] and depends(jobs["last"]) == ["first", "many"]
    assert [job.get("arrayProperties") for job in (jobs["first"], jobs["last"])] == [None, None]


def test_a_foreach_of_one_is_a_plain_job() -> None:
    _, jobs = render({"s": {"foreach": [0]}, "t": {"after": ["s"]}})
    assert list(jobs) == ["s.0", "t"] and "arrayProperties" not in jobs["s.0"]
    assert variables(jobs["s.0"])["ZEN_RUNNER_STEP"] == "s.0"


def test_an_array_job_has_all_its_members_until_all_are_done() -> None:
    steps = {"s": {"foreach": [0, 1, 2]}, "t": {"after": ["s"]}}
    _, jobs = render(steps, done=("s.0", "s.2"))
    assert list(jobs) == ["s", "t"] and jobs["s"]["arrayProperties"] == {"size": 3} and depends(jobs["t"]) == ["s"]
    _, jobs = render(steps, done=("s.0", "s.1", "s.2"))
    assert list(jobs) == ["t"] and depends(jobs["t"]) == []


# -- retries -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", ["EC2", "FARGATE"])
@pytest.mark.parametrize("on", [on for size in range(1, 6) for on in itertools.combinations(outcome.RETRIABLE, size)])
def test_the_rules_say_what_the_exit_table_says(platform: str, on: tuple[str, ...]) -> None:
    rules = evaluate_on_exit({"on": list(on), "memory_factor": 1.0}, platform)
    assert 0 < len(rules) <= 5
    for row in [*outcome.TABLE[1:], outcome.row_of(3)]:
        code = 3 if row is outcome.TABLE[1] else row.code
        found = service_retries(
            {"attempts": 2, "evaluateOnExit": rules},
            1,
            {"onExitCode": str(code), "onReason": "", "onStatusReason": "Essential container in task exited"},
        )
        expected = outcome.is_retried(row.name, code, on)
        if found != expected:
            # Five rules are not enough for all; docs/batch.md says which of them are left out.
            no_room = outcome.USER in on and row.name in ("usage", "duplicate", "placement", "config", "user", "input")
            covered = platform == "EC2" and row.name == outcome.TERMINATED and len(on) >= 4
            assert (no_room and found) or (covered and not found), (row.code, on, rules)
    lost = {"onExitCode": "", "onReason": "", "onStatusReason": "Host EC2 (instance i-1) terminated."}
    if platform == "EC2" and outcome.INFRA in on:
        assert service_retries({"attempts": 2, "evaluateOnExit": rules}, 1, lost)


def test_out_of_memory_is_not_tried_again_where_the_next_attempt_was_to_get_more() -> None:
    for factor, expected in ((1.0, True), (2.0, False)):
        rules = evaluate_on_exit({"on": ["infra", "oom"], "memory_factor": factor}, "EC2")
        found = {"onExitCode": "137", "onReason": "OutOfMemoryError: Container killed", "onStatusReason": ""}
        assert service_retries({"attempts": 2, "evaluateOnExit": rules}, 1, found) is expected


@pytest.mark.parametrize(("retry", "found"), [({"limit": 0}, {"attempts": 1}), ({"on": []}, {"attempts": 1})])
def test_no_retries(retry: dict[str, Any], found: dict[str, Any]) -> None:
    assert one({"retry": retry})[1]["retryStrategy"] == found


# -- what Batch says -----------------------------------------------------------------------------------------------------------

EXITED = "Essential container in task exited"


@pytest.mark.parametrize(
    ("detail", "state", "kind", "code", "words"),
    [
        ({"status": "SUBMITTED"}, PENDING, None, None, ""),
        (
            {"status": "RUNNABLE", "statusReason": "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - no instances"},
            *(PENDING, None, None, "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT"),
        ),
        ({"status": "STARTING"}, PENDING, None, None, ""),
        ({"status": "RUNNING", "attempts": [{"container": {"exitCode": 1}}]}, RUNNING, None, None, ""),
        ({"status": "SUCCEEDED", "container": {"exitCode": 0}}, SUCCEEDED, None, 0, ""),
        ({"status": "A_NEW_ONE"}, PENDING, None, None, ""),
        ({"status": "FAILED", "statusReason": EXITED, "container": {"exitCode": 78}}, FAILED, None, 78, EXITED),
        (
            {
                "status": "FAILED",
                "statusReason": EXITED,
                "container": {"exitCode": 137, "reason": "OutOfMemoryError: Container killed due to memory usage"},
            },
            *(FAILED, "oom", 137, "OutOfMemoryError"),
        ),
        ({"status": "FAILED", "statusReason": "Host EC2 (instance i-0ab) terminated."}, FAILED, "infra", None, "Host EC2"),
        ({"status": "FAILED", "statusReason": "Job attempt duration exceeded timeout"}, FAILED, "timeout", None, "timeout"),
        (
            {
                "status": "FAILED",
                "statusReason": "Task failed to start",
                "attempts": [{"container": {"reason": "CannotPullContainerError: manifest unknown: x not found"}}],
            },
            *(FAILED, "config", None, "CannotPullContainerError"),
        ),
        (
            {
                "status": "FAILED",
                "statusReason": "Task failed to start",
                "container": {"reason": "CannotPullContainerError: i/o timeout"},
            },
            *(FAILED, "infra", None, "i/o timeout"),
        ),
        ({"status": "FAILED", "statusReason": "Dependent Job failed"}, FAILED, None, None, "Dependent Job failed"),
        ({"status": "FAILED", "statusReason": REASON, "container": {"exitCode": 143}}, CANCELLED, None, 143, "cancelled"),
        ({"status": "FAILED", "statusReason": "by hand", "isTerminated": True}, CANCELLED, None, None, "by hand"),
    ],
)
def test_what_a_jobs_detail_means(detail: dict[str, Any], state: str, kind: str | None, code: int | None, words: str) -> None:
    seen = status_of(detail)
    assert (seen.state, seen.kind, seen.exit_code) == (state, kind, code) and words in seen.message


class Answers:
    """In the place of the client: what Batch would say of jobs, and how often it was asked."""

    def __init__(self, **jobs: dict[str, Any]) -> None:
        self.jobs = {job.replace("__", ":"): detail for job, detail in jobs.items()}
        self.asked: Counter[str] = Counter()

    def describe(self, job_ids: list[str]) -> list[dict[str, Any]]:
        self.asked.update(job_ids)
        return [{"jobId": job, **self.jobs[job]} for job in job_ids if job in self.jobs]


def asking(answers: Answers) -> BatchPlatform:
    platform = BatchPlatform(None, "q", None)
    platform.client = answers  # type: ignore[assignment]
    return platform


def states(platform: BatchPlatform, jobs: dict[str, Any]) -> dict[str, str]:
    statuses = OrchestratorBatchBackend(queue="q").statuses(platform, {"round": 1, "jobs": jobs})
    return {step: status.state for step, status in statuses.items()}


def test_members_of_an_array_job_are_asked_for_only_where_they_differ() -> None:
    def array(status: str, **summary: int) -> dict[str, Any]:
        return {"status": status, "arrayProperties": {"size": 2, "statusSummary": summary}}

    answers = Answers(
        wait=array("PENDING", PENDING=1, RUNNABLE=1),
        good=array("SUCCEEDED", SUCCEEDED=2),
        never=array("FAILED"),
        both=array("PENDING", RUNNING=1, SUCCEEDED=1),
        both__0={"status": "RUNNING"},
        both__1={"status": "SUCCEEDED"},
        lost=array("PENDING", RUNNING=1, SUCCEEDED=1),
        one={"status": "SUCCEEDED"},
    )
    platform = asking(answers)
    jobs = {"a": "one", "gone": "gone", **{name: [name, 2] for name in ("wait", "good", "never", "both", "lost")}}
    assert states(platform, jobs) == {
        "a": "succeeded",
        **{f"wait.{index}": "pending" for index in range(2)},
        **{f"good.{index}": "succeeded" for index in range(2)},
        **{f"never.{index}": "failed" for index in range(2)},
        "both.0": "running",
        "both.1": "succeeded",
        **{f"lost.{index}": "pending" for index in range(2)},
    }
    assert not {"wait:0", "good:0", "never:0"} & set(answers.asked)
    assert len(states(platform, jobs)) == 11
    assert answers.asked["one"] == answers.asked["good"] == answers.asked["both:1"] == 1, "what has ended is not asked for again"


def test_a_fan_in_job_is_no_step_but_its_failure_is_told() -> None:
    answers = Answers(f={"status": "RUNNING"}, a={"status": "PENDING"})
    platform = asking(answers)
    jobs = {"FAN-IN-1": "f", "a": "a"}
    assert states(platform, jobs) == {"a": "pending"}
    answers.jobs["f"] = {"status": "FAILED", "statusReason": "no luck", "attempts": [{}]}
    seen = OrchestratorBatchBackend(queue="q").statuses(platform, {"round": 1, "jobs": jobs})
    assert seen[""].message == "the fan-in job f failed: no luck" and seen[""].state == "running"
