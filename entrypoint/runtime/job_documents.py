"""What a platform is handed for a step that runs as its job: made here for the attempt that starts it, and for `render`."""

from __future__ import annotations

from tempfile import TemporaryDirectory

from backends.base import TrainingBaseBackend
from backends.orchestrator.remote.job import Names, carry, contract, job_of
from backends.shipping.shipment import ship
from entrypoint.runtime.run import runs_elsewhere

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from backends.names import Rule
    from backends.orchestrator.remote.job import Job
    from backends.platform import Document

PASSED = ("TRACEPARENT", "ZEN_RUNNER_INPUTS_RUN")
"""What the container takes over from the environment of whoever starts it."""


def name_of(rule: Rule, config: Mapping[str, Any], run: str, step: str, number: int) -> str:
    """Return what the platform calls a step's job.

    Args:
        rule: what it takes for a name.
        config: the run's config.
        run: the run's id.
        step: the step.
        number: the round, from 1.
    """
    # An orchestrator of the same platform has names of the same form; a step's name has no capitals.
    return Names(rule, config["store"], run, number).of(f"JOB-{step}")


def in_container(config: Mapping[str, Any], step: str, shipped: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of the job: that of the run, with code that travels, and the step runs where it is.

    Args:
        config: the run's config.
        step: the step.
        shipped: what shipping made of the config.
    """
    return {**shipped, "steps": {**config["steps"], step: {**config["steps"][step], "backend": None}}}


def make_job(
    backend: TrainingBaseBackend,
    config: Mapping[str, Any],
    run: str,
    step: str,
    name: str,
    environ: Mapping[str, str],
    memory: int | None = None,
) -> Job:
    """Return the container that runs a step.

    Args:
        backend: the step's.
        config: what `in_container` returns.
        run: the run's id.
        step: the step.
        name: what `name_of` returns.
        environ: that of whoever starts it.
        memory: bytes; None for what the config says.
    """
    env = {**contract(config, step, step, run), "ZEN_RUNNER_ATTEMPT": name}
    env.update({key: environ[key] for key in PASSED if key in environ})
    env.update(carry(config, backend.limits, used=backend.count_variables(env)).environment(backend.config_path))
    job = job_of(config, step, config["steps"][step], run)
    return job._replace(name=name, env=env, memory=job.memory if memory is None else memory)


def render(config: Mapping[str, Any], run: str) -> list[Document]:
    """Return what the platforms of all steps that run elsewhere would be handed first; offline, and the same everywhere.

    Args:
        config: the resolved config, not shipped yet.
        run: the run's id, or something that stands for one.
    """
    away = {step: spec for step, spec in config["steps"].items() if runs_elsewhere(spec)}
    documents: list[Document] = []
    for step, spec in away.items():
        backend = TrainingBaseBackend.from_config(spec["backend"])
        with TemporaryDirectory(prefix="zen-runner-") as folder:
            shipped = ship({**config, "steps": {step: spec}}, folder, mounts=backend.mounts()).config
        inside = in_container(config, step, shipped)
        job = make_job(backend, inside, run, step, name_of(backend.rule, config, run, step, 1), {})
        documents += backend.render_job(job, inside)
    return documents
