"""One step, from what people write to what runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import UNSET

from backends.config import limits, placeholders, places, references, variables
from backends.config.blocks import Backends, engine
from backends.config.findings import Findings
from backends.config.naming import check_name, is_function
from backends.config.paths import Path, strings
from backends.config.places import Origin
from backends.config.references import HEADS, Scope
from backends.config.schema import Step
from backends.config.shape import KINDS

IMAGE = "zen-runner"


def read(
    name: str, top: dict[str, Any], image: str | None, backends: Backends, scope: Scope, origin: Origin, findings: Findings
) -> dict[str, Any]:
    """Return one step with the keys of a resolved one, but for ``foreach``.

    Args:
        name: the step's.
        top: the settings that hold where it has none.
        image: the image of steps that name none; None for the variant that the step needs.
        backends: the config's.
    """
    step = scope.steps[name]
    path: Path = ("steps", name)
    _check_name(name, step, origin, findings)
    kind = _kind(step, path, findings)
    is_engine = kind in ("beam", "spark")
    if is_engine and step.as_ == "path":
        findings.report((*path, "as"), f"{kind} steps read and write the store themselves, so they get URLs; remove `as`")
    form = step.as_ if step.as_ is not UNSET else "url" if is_engine else "path"
    inputs = {
        key: references.read_input(value, name, (*path, "inputs", key), scope, origin, findings, as_url=form == "url")
        for key, value in step.inputs.items()
    }
    variables.check_step(step, kind, path, findings)
    parents = _parents(name, step, inputs, scope, origin, findings)
    backend = backends.choose(step.backend, ("processing", "training"), (*path, "backend"))
    variant = engine(kind, backend, (*path, "backend"), findings)
    env = variables.read_env(step.env, (*path, "env"), origin, findings, of_step=True)
    settings = limits.read(step, path, top, findings, is_resolved=origin.is_resolved)
    if step.image is not UNSET:
        image = places.image(step.image, (*path, "image"), origin, findings)
    elif image is None:
        image = f"{IMAGE}:{variant or ('cuda' if settings['resources']['gpu'] else 'cpu')}"
    return {
        **({} if kind is None else {kind: getattr(step, kind)}),
        "args": step.args,
        "inputs": inputs,
        "outputs": step.outputs,
        "after": list(dict.fromkeys(step.after)),
        "parents": sorted(parents),
        "as": form,
        "backend": backend,
        "env": env,
        **settings,
        "image": image,
    }


def _check_name(name: str, step: Step, origin: Origin, findings: Findings) -> None:
    path: Path = ("steps", name)
    # The members of a foreach step go by its name and their index.
    check_name(step.foreach["of"] if isinstance(step.foreach, dict) else name, "a step's name", path, findings)
    if step.parents is not UNSET and not origin.is_resolved:
        findings.report((*path, "parents"), "this key is written by `zen-runner resolve` only; write `after`")
    if name in (*HEADS, placeholders.ITEM):
        findings.report(path, f"a step can't be called {name}, which placeholders begin with; choose another name")


def _kind(step: Step, path: Path, findings: Findings) -> str | None:
    """Return what kind of step it is, the first if it says several, or None if it says none."""
    kinds = [kind for kind in KINDS if getattr(step, kind) is not UNSET]
    if not kinds:
        if not any(findings.is_dropped(*path, kind) for kind in KINDS):
            message = "nothing says what the step does; add one of call, run, beam and spark, such as call: module:function"
            findings.report(path, message)
        return None
    if len(kinds) > 1:
        message = f"a step has exactly one of {', '.join(KINDS)}, and this has {' and '.join(kinds)}; keep one"
        findings.report((*path, kinds[1]), message)
    kind = kinds[0]
    value = getattr(step, kind)
    if kind == "run":
        if not value and not findings.is_dropped(*path, "run"):
            findings.report((*path, "run"), "it is empty; write a program and its arguments, such as [python, train.py]")
        elif value and not value[0]:
            findings.report((*path, "run", 0), "the program's name is empty; write such as python")
    elif not is_function(value):
        hint = ""
        module, dot, function = value.rpartition(".")
        if dot and ":" not in value and is_function(f"{module}:{function}"):
            hint = f" (did you mean {module + ':' + function!r}?)"
        elif value.endswith(".py"):
            hint = f"; to run a script: run: [python, {value}]"
        findings.report((*path, kind), f"{value[:80]!r} is not package.module:function{hint}")
    return kind


def _parents(
    name: str, step: Step, inputs: dict[str, dict[str, Any]], scope: Scope, origin: Origin, findings: Findings
) -> set[str]:
    """Return the steps that a step waits for: those of its inputs, of ``after`` and of placeholders."""
    path: Path = ("steps", name)
    parents = {part["step"] for source in inputs.values() for part in source.get("gather", (source,)) if "step" in part}
    for index, other in enumerate(step.after):
        if references.is_step(other, name, (*path, "after", index), scope, findings):
            parents.add(other)
    for text_path, text in _texts(step, path):
        places.refuse_interpolation(text, text_path, origin, findings)
        for reference in placeholders.names(text):
            parent = references.check_placeholder(reference, name, text_path, scope, findings)
            if parent is not None:
                parents.update(scope.groups.get(parent, (parent,)))
    return parents


def _texts(step: Step, path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the strings of a step that may have placeholders."""
    if step.run is not UNSET:
        yield from strings(step.run, (*path, "run"))
    yield from strings(step.args, (*path, "args"))
    for name, value in step.env.items():
        if isinstance(value, str):
            yield (*path, "env", name), value
