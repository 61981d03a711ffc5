"""Look into the cache for a success of the same work."""

from __future__ import annotations

import os

from backends import outcome
from backends.config import placeholders
from backends.files import go_on
from backends.store.cache import cache_get, cache_key
from entrypoint.runtime.proc import find_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from backends.store.records import Record
    from entrypoint.runtime.claimed import Claimed
    from entrypoint.runtime.inputs import Inputs
    from entrypoint.runtime.run import Run


def look(claimed: Claimed, inputs: Inputs, *, check: Callable[[], None] = go_on) -> Record | None:
    """Return the attempt's record if its work was done before; note its cache key in any case.

    Args:
        claimed: the attempt.
        inputs: what it was given.
        check: called for each file and block of the artifacts; what it raises ends the work.
    """
    run = claimed.task.run
    software = run.image_digest or _interpreter(run)
    claimed.cache_key = key_of(run, claimed.task.name, inputs, claimed.digests, software)
    before = cache_get(run.store, claimed.cache_key, check=check)
    return None if before is None else repeat(claimed.record(outcome.SUCCESS, ""), before)


def key_of(run: Run, name: str, inputs: Inputs, digests: Mapping[str, str], software: str) -> str:
    """Return a step's cache key.

    Args:
        run: the step's.
        name: the step.
        inputs: what it is given.
        digests: those of the inputs, by name.
        software: the digest of the image that it runs in, or what names its Python.
    """
    step = run.config["steps"][name]

    def by_content(reference: tuple[str, ...]) -> Any:
        # Paths hold the run's id, so an input goes by its digest, and an output by its name.
        if reference[0] == "inputs":
            return digests[reference[1]]
        return list(reference) if reference[0] == "outputs" else inputs.look_up(reference)

    work = {**step, "env": {**run.config["env"], **step["env"]}, "foreach": None}
    code = _code_digest(run)
    plain: Any = placeholders.substitute(work, by_content)
    plain["foreach"] = step["foreach"]  # whatever is in an item is no placeholder
    return cache_key(name, plain, digests, code, software)


def repeat(record: Record, before: Record) -> Record:
    """Return a success with what an earlier one of the same work has left."""
    record["outputs"] = before["outputs"]
    record["values"] = before["values"]
    record["cached_from"] = {"run": before["run"], "step": before["step"], "attempt": before["attempt"]}
    return record


def _code_digest(run: Run) -> str:
    if run.code_digest is None:
        from backends.shipping import archive, listing

        run.code_digest = ""
        if run.config["code"]:
            # A config that lies in the code's directory is no code: what it says of this step is in the key already.
            exclude = [*listing.configs(run.cwd), *([run.store.root] if run.store.root else [])]
            run.code_digest = archive.digest(run.cwd, exclude=exclude)
    return run.code_digest


def _interpreter(run: Run) -> str:
    """Name the software a step runs on where there is no image: the user's Python, as a file and its age."""
    python = find_program(run.python, run.environ.get("PATH", os.defpath))
    state = os.stat(python)
    return f"{os.path.realpath(python)}:{state.st_size}:{state.st_mtime_ns}"
