"""Look into the cache for a success of the same work."""

from __future__ import annotations

import os

from backends import outcome
from backends.config import placeholders
from backends.store.cache import cache_get, cache_key
from backends.store.trees import go_on
from entrypoint.runtime.proc import find_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
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
    task = claimed.task
    run, step = task.run, task.step

    def by_content(reference: tuple[str, ...]) -> Any:
        # Paths hold the run's id, so an input goes by its digest, and an output by its name.
        if reference[0] == "inputs":
            return claimed.digests[reference[1]]
        return list(reference) if reference[0] == "outputs" else inputs.look_up(reference)

    work = {**step, "env": {**run.config["env"], **step["env"]}, "foreach": None}
    code, software = _code_digest(run), run.image_digest or _interpreter(run)
    plain: Any = placeholders.substitute(work, by_content)
    plain["foreach"] = step["foreach"]  # whatever is in an item is no placeholder
    claimed.cache_key = cache_key(task.name, plain, claimed.digests, code, software)
    before = cache_get(run.store, claimed.cache_key, check=check)
    if before is None:
        return None
    record = claimed.record(outcome.SUCCESS, "")
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
