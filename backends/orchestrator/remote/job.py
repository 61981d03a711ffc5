"""A container in the project's own words, which every platform translates into its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from backends import graph, names, wire
from backends.config import transport

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from backends.config.transport import Limits


class Job(NamedTuple):
    """One container, or an array of them.

    Attributes:
        key: the step; the ``foreach`` step for an array; empty for the whole pipeline.
        name: what the platform is to call it: fitted to its rule, made of run, round and key, so that it is found again by it.
        run: the run's id.
        pipeline: the pipeline's name.
        image: the image.
        env: the variables of the container contract; the config, or where it is, is among them.
        secrets: references by variable, as the config has them.
        cpu: cores; None where the config does not say.
        memory: bytes; None where the config does not say.
        gpu: devices.
        timeout: seconds after which the supervisor in the container has ended it; None for no limit.
        retry: the step's ``retry``.
        after: keys of the jobs that it waits for; empty where a driver keeps the order.
        size: how many members an array has; 1 for a single container.
    """

    key: str
    name: str
    run: str
    pipeline: str
    image: str
    env: dict[str, str]
    secrets: Mapping[str, Mapping[str, str]]
    cpu: float | None
    memory: int | None
    gpu: int
    timeout: float | None
    retry: Mapping[str, Any]
    after: tuple[str, ...] = ()
    size: int = 1


def job_of(config: Mapping[str, Any], key: str, spec: Mapping[str, Any], run: str) -> Job:
    """Return a job without its name and its variables.

    Args:
        config: the config.
        key: the job's key.
        spec: the step that it is for, or the first of several.
        run: the run's id.
    """
    resources, timeout = spec["resources"], spec["timeout"]
    return Job(
        key=key,
        name="",
        run=run,
        pipeline=config["name"],
        image=spec["image"],
        env={},
        secrets=config["secrets"],
        cpu=resources["cpu"],
        memory=resources["memory"],
        gpu=resources["gpu"],
        timeout=None if timeout is None else float(timeout) + float(spec["grace_period"]),
        retry=spec["retry"],
    )


class Names:
    """The names of one round of a run's jobs: no other run of any store has them, and no other round of this one.

    Args:
        rule: what the platform takes for a name.
        store: the store's URL, as the config has it.
        run: the run's id.
        number: the round, from 1.

    Attributes:
        prefix: what all of them begin with, and no other name does.
    """

    def __init__(self, rule: names.Rule, store: str, run: str, number: int) -> None:
        digest = wire.sha256(wire.dumps([store, run, number]).encode())[: names.DIGEST]
        self.prefix = f"{names.fit(rule.within(rule.limit // 2 - 1), run)}-{digest}-"
        self._rule = rule.within(rule.limit - len(self.prefix))

    def of(self, key: str) -> str:
        """Return the name of a job."""
        return self.prefix + names.fit(self._rule, key)


def contract(config: Mapping[str, Any], key: str, step: str, run: str) -> dict[str, str]:
    """Return the variables of the container contract but for the config.

    Args:
        config: the config.
        key: the job's key, which is its step's name; empty for a container that runs the whole pipeline.
        step: the step whose image it has.
        run: the run's id.
    """
    env = {"ZEN_RUNNER_RUN_ID": run}
    if key:
        env["ZEN_RUNNER_STEP"] = key
    image = config["steps"][step]["image"] if key else config["image"]
    if "@sha256:" in (image or ""):
        env["ZEN_RUNNER_IMAGE_DIGEST"] = image
    return env


def carry(config: Mapping[str, Any], limits: Limits, *, used: int = 0, copies: int = 1) -> transport.Carried:
    """Return how a config travels, as ``transport.carry`` does, with the reference into the config's own store."""
    data = wire.dumps(config).encode()
    url = f"{config['store'].rstrip('/')}/configs/{wire.sha256(data)}.json"
    return transport.carry(data, limits, url, used=used, copies=copies)


def steps_of_jobs(steps: Mapping[str, Any], done: Collection[str], arrays: bool) -> tuple[dict[str, str], dict[str, int]]:
    """Return by the job's key its first step, and the sizes of those that are arrays.

    Args:
        steps: of the config.
        done: steps that have a good result; an array job has all its members, and those that are done end at once.
        arrays: the members of a ``foreach`` step are one job.
    """
    groups = {of: members for of, members in graph.groups(steps).items() if len(members) > 1} if arrays else {}
    array_of = {member: of for of, members in groups.items() for member in members}
    firsts: dict[str, str] = {}
    for step in steps:
        if step not in done:
            firsts.setdefault(array_of.get(step, step), f"{array_of[step]}.0" if step in array_of else step)
    return firsts, {of: len(members) for of, members in groups.items()}


def parents_of_jobs(steps: Mapping[str, Any], firsts: Mapping[str, str], sizes: Mapping[str, int]) -> dict[str, list[str]]:
    """Return by each job's key the keys of the jobs that it waits for; those of steps that are done are left out."""

    def key_of(step: str) -> str:
        of = step.rpartition(".")[0]
        return of if of in sizes else step

    return {
        key: [parent for parent in dict.fromkeys(map(key_of, steps[step]["parents"])) if parent in firsts]
        for key, step in firsts.items()
    }
