"""The IR for Kubeflow Pipelines: what kfp itself makes of an equal pipeline, and what Kubeflow and Kubernetes do to it."""

# No postponed annotations here: kfp reads those of a component as they are.

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import wire
from backends.errors import ConfigError
from backends.orchestrator.kubeflow import OrchestratorKubeFlowBackend, render
from entrypoint.runtime.load import Source, load

ROOT = Path(__file__).resolve().parents[2]
kfp = pytest.importorskip("kfp", reason="the kubeflow extra is not installed")


def config(**document: Any) -> dict[str, Any]:
    """Return the resolved config of a document with ``steps``."""
    text = json.dumps({"version": 1, "name": "demo", "store": "s3://bucket/runs", "code": None, **document})
    resolved, _ = load(Source(text.encode(), "test", "/"), environ={})
    return resolved


def spec_of(documents: list[dict[str, Any]]) -> Any:
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    return json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())


def container(documents: list[dict[str, Any]], key: str) -> dict[str, Any]:
    found: dict[str, Any] = documents[0]["deploymentSpec"]["executors"][f"exec-{key}"]["container"]
    return found


def variables(documents: list[dict[str, Any]], key: str) -> dict[str, str]:
    return {item["name"]: item["value"] for item in container(documents, key)["env"]}


DOCUMENT: dict[str, Any] = {
    "secrets": {"API_KEY": {"kubernetes": "vault/api-key"}},
    "steps": {
        "make": {
            "run": ["true"],
            "args": {"n": 3, "rate": 0.5, "text": "a: b", "on": True, "sizes": [1, 2], "more": {"k": "v"}},
            "outputs": ["x"],
            "retry": {"limit": 0},
        },
        "train": {
            "run": ["true"],
            "inputs": {"x": "make.x"},
            "resources": {"cpu": 1.5, "memory": "512Mi", "gpu": 2},
            "retry": {"limit": 3, "on": ["infra"], "backoff": 1.5},
            "image": "trainer@sha256:" + "0" * 64,
        },
    },
}
MARKED = [f"make.{name}" for name in ("n", "rate", "text", "on", "sizes", "more")]


def test_kfp_compiles_the_same_from_its_own_language(tmp_path: Path) -> None:
    import yaml
    from google.protobuf import json_format
    from kfp import compiler, dsl, kubernetes

    backend = OrchestratorKubeFlowBackend(
        parameters=MARKED, env={"ZONE": "a"}, image_pull_policy="Always", image_pull_secrets=["registry"]
    )
    resolved = config(**DOCUMENT)
    documents = backend.render(resolved, "r1")
    carried = variables(documents, "make")["ZEN_RUNNER_CONFIG"]
    tail = ["/usr/bin/tini", "-s", "--", "/usr/bin/zen-runner"]

    @dsl.container_component  # type: ignore[untyped-decorator]
    def make(  # type: ignore[no-untyped-def] # kfp reads the annotations
        zen_run_id: str,
        zen_attempt: str,
        make_n: int,
        make_rate: float,
        make_text: str,
        make_on: bool,
        make_sizes: list,  # type: ignore[type-arg]
        make_more: dict,  # type: ignore[type-arg]
    ):
        return dsl.ContainerSpec(
            image="zen-runner:cpu",
            command=[
                "/usr/bin/env",
                f"ZEN_RUNNER_RUN_ID={zen_run_id}",
                f"ZEN_RUNNER_ATTEMPT={zen_attempt}",
                f"ZEN_RUNNER_ARG_n={make_n}",
                f"ZEN_RUNNER_ARG_rate={make_rate}",
                f"ZEN_RUNNER_ARG_text={make_text}",
                f"ZEN_RUNNER_ARG_on={make_on}",
                f"ZEN_RUNNER_ARG_sizes={make_sizes}",
                f"ZEN_RUNNER_ARG_more={make_more}",
                *tail,
            ],
        )

    @dsl.container_component  # type: ignore[untyped-decorator]
    def train(zen_run_id: str, zen_attempt: str):  # type: ignore[no-untyped-def]
        filled = [f"ZEN_RUNNER_RUN_ID={zen_run_id}", f"ZEN_RUNNER_ATTEMPT={zen_attempt}"]
        return dsl.ContainerSpec(image=DOCUMENT["steps"]["train"]["image"], command=["/usr/bin/env", *filled, *tail])

    def set_up(task: Any, env: dict[str, str]) -> None:
        for name, value in env.items():
            task.set_env_variable(name, value)
        task.set_caching_options(False)
        kubernetes.use_secret_as_env(task, "vault", {"api-key": "API_KEY"})
        kubernetes.set_image_pull_policy(task, "Always")
        kubernetes.set_image_pull_secrets(task, ["registry"])

    @dsl.pipeline(name="demo", display_name="demo")  # type: ignore[untyped-decorator]
    def pipeline(
        make_n: int = 3,
        make_rate: float = 0.5,
        make_text: str = "a: b",
        make_on: bool = True,
        make_sizes: list = [1, 2],  # type: ignore[type-arg] # noqa: B006
        make_more: dict = {"k": "v"},  # type: ignore[type-arg] # noqa: B006
    ) -> None:
        own = {"zen_run_id": "r1", "zen_attempt": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
        first = make(
            make_n=make_n,
            make_rate=make_rate,
            make_text=make_text,
            make_on=make_on,
            make_sizes=make_sizes,
            make_more=make_more,
            **own,
        )
        set_up(first, {"ZEN_RUNNER_CONFIG": carried, "ZEN_RUNNER_STEP": "make", "ZONE": "a"})
        second = train(**own).after(first)
        digest = {"ZEN_RUNNER_IMAGE_DIGEST": DOCUMENT["steps"]["train"]["image"]}
        env = {"ZEN_RUNNER_CONFIG": carried, **digest, "ZEN_RUNNER_RETRY": "any", "ZEN_RUNNER_STEP": "train", "ZONE": "a"}
        set_up(second, env)
        second.set_cpu_limit("1.5").set_memory_limit("536870912").set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(2)
        second.set_retry(3, backoff_duration="2s", backoff_factor=2, backoff_max_duration="2592000s")

    compiler.Compiler().compile(pipeline, str(tmp_path / "p.yaml"))
    theirs = list(yaml.safe_load_all((tmp_path / "p.yaml").read_text()))
    assert theirs[0].pop("sdkVersion").startswith("kfp-")
    theirs[0]["sdkVersion"] = "zen-runner"
    ours = json_format.MessageToDict(spec_of(documents))
    theirs[0] = json_format.MessageToDict(spec_of(theirs))
    assert ours == theirs[0]
    assert documents[1] == theirs[1]


def test_kfp_loads_it(tmp_path: Path) -> None:
    import yaml
    from kfp import components

    documents = OrchestratorKubeFlowBackend(parameters=MARKED).render(config(**DOCUMENT))
    loaded = components.load_component_from_text(yaml.safe_dump_all(documents))
    assert loaded.name == "demo"
    assert {name: spec.default for name, spec in loaded.component_spec.inputs.items()}["make_text"] == "a: b"
    assert loaded.platform_spec.platforms["kubernetes"]


@pytest.mark.parametrize("name", ["do", "do-it"])
def test_kfp_takes_a_pipeline_for_a_pipeline_also_where_a_step_has_its_name(name: str) -> None:
    import yaml
    from kfp import components

    documents = OrchestratorKubeFlowBackend().render(config(name=name, steps={name: {"run": ["true"]}}))
    loaded = components.load_component_from_text(yaml.safe_dump_all(documents))
    assert loaded.component_spec.implementation.graph is not None and not loaded.component_spec.inputs


def test_the_command_is_the_images_entrypoint() -> None:
    lines = (ROOT / "images" / "Dockerfile").read_text().splitlines()
    entrypoint = [json.loads(line.removeprefix("ENTRYPOINT ")) for line in lines if line.startswith("ENTRYPOINT ")]
    assert entrypoint == [list(render.COMMAND)]


def test_a_rendered_pipeline_takes_kubeflows_run_id_and_a_submitted_one_its_own() -> None:
    backend, resolved = OrchestratorKubeFlowBackend(), config(**DOCUMENT)
    for arguments, wanted in (((), "{{$.pipeline_job_uuid}}"), (("mine",), "mine")):
        task = backend.render(resolved, *arguments)[0]["root"]["dag"]["tasks"]["make"]
        constants = {name: value["runtimeValue"]["constant"] for name, value in task["inputs"]["parameters"].items()}
        assert constants == {"zen_run_id": wanted, "zen_attempt": "{{$.pipeline_job_uuid}}"}


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=200))
def test_nothing_in_a_config_is_read_by_kubernetes_or_argo(text: str) -> None:
    # Kubernetes reads $(NAME) and $$ in a variable's value, Argo {{NAME}} in all of the workflow.
    resolved = config(steps={"a": {"run": ["echo", text + "$(HOME) $$ {{workflow.name}}"]}})
    value = variables(OrchestratorKubeFlowBackend().render(resolved), "a")["ZEN_RUNNER_CONFIG"]
    assert "$" not in value and "{{" not in value
    again, sha = load(Source(value.encode(), "test", "/"), environ={})
    assert again == resolved and sha == wire.sha256(wire.dumps(resolved).encode())


def test_a_large_config_goes_by_reference() -> None:
    noise = "".join(wire.sha256(str(number).encode()) for number in range(2_000))
    resolved = config(steps={"a": {"run": ["true"], "args": {"blob": noise}}, "b": {"run": ["true"]}, "c": {"run": ["true"]}})
    documents = OrchestratorKubeFlowBackend().render(resolved)
    sha = wire.sha256(wire.dumps(resolved).encode())
    wanted = f"ref:s3://bucket/runs/configs/{sha}.json#sha256={sha}"
    assert {variables(documents, key)["ZEN_RUNNER_CONFIG"] for key in "abc"} == {wanted}


def test_a_thousand_steps_carry_references_and_no_copies() -> None:
    steps: dict[str, Any] = {"s0": {"run": ["true"]}}
    steps.update({f"s{n}": {"run": ["true"], "after": [f"s{n - 1}"]} for n in range(1, 1000)})
    documents = OrchestratorKubeFlowBackend().render(config(steps=steps))
    assert variables(documents, "s999")["ZEN_RUNNER_CONFIG"].startswith("ref:s3://bucket/runs/configs/")
    assert len(wire.dumps(documents)) < 1_500_000


NAME = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,60}[a-z0-9])?", fullmatch=True)


ODD = st.sampled_from(["executor", "root", "entrypoint", "a-driver", "a", "a_b", "a-b", "s.0", "s.1"])


@given(st.sets(NAME | ODD, max_size=20))
def test_task_names_are_valid_and_unique_and_not_kubeflows_own(steps: set[str]) -> None:
    keys = render.task_keys(dict.fromkeys(steps))
    assert len(set(keys.values())) == len(steps)
    for key in keys.values():
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", key) and len(key) <= 63
        assert key not in ("executor", "root", "entrypoint") and not key.endswith("-driver")


def test_the_name_that_people_gave_is_what_is_shown() -> None:
    documents = OrchestratorKubeFlowBackend().render(config(name="my_pipe", steps={"do_it": {"run": ["true"]}}))
    (task,) = documents[0]["root"]["dag"]["tasks"].values()
    assert task["taskInfo"] == {"name": "do_it"}
    assert documents[0]["pipelineInfo"]["displayName"] == "my_pipe"
    assert re.fullmatch(r"[a-z0-9-]+", documents[0]["pipelineInfo"]["name"])


def test_steps_with_a_good_result_are_left_out() -> None:
    backend = OrchestratorKubeFlowBackend(parameters=["make.n"])
    documents = backend.render(config(**DOCUMENT), "r", {"make"})
    assert list(documents[0]["root"]["dag"]["tasks"]) == ["train"]
    assert "dependentTasks" not in documents[0]["root"]["dag"]["tasks"]["train"]
    spec_of(documents)


@pytest.mark.parametrize("retry", [{"limit": 0, "on": ["infra"]}, {"limit": 3, "on": []}])
def test_without_retries_nothing_is_said_of_them(retry: dict[str, Any]) -> None:
    documents = OrchestratorKubeFlowBackend().render(config(steps={"a": {"run": ["true"], "retry": retry}}))
    assert "retryPolicy" not in documents[0]["root"]["dag"]["tasks"]["a"]
    assert "ZEN_RUNNER_RETRY" not in variables(documents, "a")


def test_a_parameter_of_a_foreach_step_is_that_of_all_its_members() -> None:
    resolved = config(steps={"s": {"run": ["echo", "{item}"], "foreach": [1, 2], "args": {"n": 3}}})
    documents = OrchestratorKubeFlowBackend(parameters=["s.n"]).render(resolved)
    assert list(documents[0]["root"]["inputDefinitions"]["parameters"]) == ["s_n"]
    for name in resolved["steps"]:
        key = render.task_keys(resolved["steps"])[name]
        assert "ZEN_RUNNER_ARG_n={{$.inputs.parameters['s_n']}}" in container(documents, key)["command"]


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        ("mkae.n", "no step 'mkae' (did you mean 'make'?)"),
        ("make.m", "step 'make' has no argument 'm'"),
        ("make", "no step ''"),
        ("make.nothing", "null"),
        ("make.refers", "placeholder"),
        ("a_b.c", "parameter 'a_b_c'"),
    ],
)
def test_a_wrong_parameter_is_a_config_error(mark: str, words: str) -> None:
    steps = {
        "make": {"run": ["true"], "inputs": {"x": "a.x"}, "args": {"n": 1, "nothing": None, "refers": "{inputs.x}"}},
        "a": {"run": ["true"], "args": {"b_c": 1}, "outputs": ["x"]},
        "a_b": {"run": ["true"], "args": {"c": 1}},
    }
    with pytest.raises(ConfigError, match=re.escape(words)) as error:
        OrchestratorKubeFlowBackend(parameters=["a.b_c", mark]).render(config(steps=steps))
    assert [problem.path for problem in error.value.problems] == ["args.parameters[1]"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"token": {"env": "T", "file": "/t"}}, "args.token"),
        ({"token": {"value": "abc"}}, "args.token"),
        ({"token": "abc"}, "args.token"),
        ({"experiment": ""}, "args.experiment"),
        ({"experiment": "x" * 129}, "args.experiment"),
        ({"request_timeout": 0}, "args.request_timeout"),
        ({"image_pull_policy": "Sometimes"}, "args.image_pull_policy"),
        ({"env": {"AWS_SECRET_ACCESS_KEY": "x"}}, "args.env.AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_a_wrong_argument_is_a_config_error(args: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        OrchestratorKubeFlowBackend(**args)
