"""What a step is given: its inputs, the places of its outputs, and the values that its placeholders mean."""

from __future__ import annotations

import os

from backends.config import placeholders
from backends.errors import InputError
from backends.files import go_on
from backends.store import keys, records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from backends.store.digests import Artifact
    from backends.store.records import Record
    from entrypoint.runtime.claimed import Claimed
    from entrypoint.runtime.run import Run


class Inputs:
    """What a step is given; `fetch` brings it here.

    Args:
        run: the step's.
        name: the step.

    Attributes:
        paths: where the step finds each input: a path, or for ``as: url`` a URL; of what is gathered, a list of URLs.
        outputs: where the step writes each output: a path or a URL.
    """

    def __init__(self, run: Run, name: str) -> None:
        self.paths: dict[str, Any] = {}
        self.outputs: dict[str, str] = {}
        self._run = run
        self._name = name
        self._step: dict[str, Any] = run.config["steps"][name]
        self._parents = records.good_results(self._run.store, self._run.inputs_run, self._step["parents"])

    def fetch(self, claimed: Claimed, *, check: Callable[[], None] = go_on) -> None:
        """Bring all inputs here, note their digests, and make room for the outputs.

        Args:
            claimed: the attempt that they are for.
            check: called for each file and block; what it raises ends the work.

        Raises:
            InputError: one is missing, or a parent has no good result.
            InfraError: the store could not be read.
        """
        for name, source in self._step["inputs"].items():
            self.paths[name] = self._fetch(name, source, claimed, check)
        store = self._run.store
        for name in self._step["outputs"]:
            if self._step["as"] == "url":
                self.outputs[name] = store.url_of(keys.out(*claimed.attempt.place, name))
                if store.root is not None:
                    os.makedirs(os.path.dirname(self.outputs[name]), exist_ok=True)
            else:
                self.outputs[name] = claimed.file(f"out/{name}")
        for parent in self._step["parents"]:
            self._parent(parent)

    def render(self, argv: list[str]) -> list[str]:
        """Return a command line with all placeholders filled in."""
        return [placeholders.render(self.values(argument)) for argument in argv]

    def values(self, value: Any) -> Any:
        """Return plain data with all placeholders filled in."""
        return placeholders.substitute(value, self.look_up)

    def look_up(self, reference: tuple[str, ...]) -> Any:
        """Return what a placeholder means."""
        head, *rest = reference
        if head == "inputs":
            return self.paths[rest[0]]
        if head == "outputs":
            return self.outputs[rest[0]]
        if head == "args":
            value: Any = self.values(self._step["args"][rest[0]])
            way, path = f"args.{rest[0]}", rest[1:]
        elif head not in self._run.config["steps"]:  # a foreach step: one value per member
            from backends import graph

            return [self.look_up((name, *rest)) for name in graph.members(self._run.config["steps"], head)]
        else:
            value = self._parent(head)["values"]
            way, path = f"{head}.values", rest[1:]
        for part in path:
            if isinstance(value, dict) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            else:
                have = ", ".join(map(str, value)) if isinstance(value, dict) and value else "nothing"
                raise InputError(f"steps.{self._name}: {{{'.'.join(reference)}}}: {way} has {have}, but no {part!r}")
            way = f"{way}.{part}"
        return value

    def unfetched_digests(self) -> dict[str, str] | None:
        """Return the digests of all inputs, by name, as far as that needs none of them here; None if it does.

        Raises:
            InputError: one is missing, or a parent has no good result.
            InfraError: the store could not be read.
        """
        from backends.store import digests

        known: dict[str, str] = {}
        for name, source in self._step["inputs"].items():
            if "gather" in source:
                known[name] = digests.gathered_digest([self._artifact(name, part) for part in source["gather"]])
            elif "url" not in source:
                known[name] = self._artifact(name, source)["digest"]
            elif self._step["as"] == "url":
                known[name] = source["url"]
            else:
                return None
        return known

    def _fetch(self, name: str, source: dict[str, Any], claimed: Claimed, check: Callable[[], None]) -> Any:
        """Bring one input here, note its digest, and return where the step finds it."""
        from backends.store import artifacts, digests  # which many steps do without

        store, scratch, by_url = self._run.store, claimed.scratch, self._step["as"] == "url"
        known = claimed.digests
        if "gather" in source:
            parts = [self._artifact(name, part) for part in source["gather"]]
            known[name] = digests.gathered_digest(parts)
            if by_url:
                return [store.url_of(part["key"]) for part in parts]
            return artifacts.gather(store, parts, scratch, name, check=check)
        if "url" in source:
            if by_url:
                known[name] = source["url"]
                return source["url"]
            path, known[name] = artifacts.fetch_url(source["url"], scratch, name, check=check)
            return path
        artifact = self._artifact(name, source)
        known[name] = artifact["digest"]
        return store.url_of(artifact["key"]) if by_url else artifacts.fetch(store, artifact, scratch, name, check=check)

    def _artifact(self, name: str, source: dict[str, Any]) -> Artifact:
        artifact = self._parent(source["step"])["outputs"].get(source["output"])
        if artifact is None:
            raise InputError(
                f"steps.{self._name}.inputs.{name}: step {source['step']!r} published no output {source['output']!r} "
                f"in run {self._run.inputs_run}"
            )
        return artifact

    def _parent(self, name: str) -> Record:
        record = self._parents.get(name) or records.good_result(self._run.store, self._run.inputs_run, name)
        if record is None:
            raise InputError(
                f"steps.{self._name} needs step {name!r}, which has no good result in run {self._run.inputs_run} "
                f"of {self._run.store.url}; run that step first, or give its run's id as $ZEN_RUNNER_RUN_ID"
            )
        self._parents[name] = record
        return record
