"""What a step names of others and of itself: the steps it waits for, its inputs, and the placeholders in its strings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import UNSET

from backends.config import placeholders, wording
from backends.config.findings import Findings
from backends.config.paths import Path
from backends.config.placeholders import ITEM
from backends.config.places import Origin, location, refuse_interpolation
from backends.config.schema import Input, Step
from backends.store.base import BUCKET_SCHEMES
from backends.store.urls import WEB

HEADS = ("inputs", "outputs", "args")  # what a placeholder begins with, if not with a step's name


class Scope(NamedTuple):
    """What the steps of one config can name.

    Attributes:
        steps: by name, without ``foreach`` and without the args that their items are from.
        outputs: the names of each step's outputs.
        items: of each ``foreach`` step.
        lists: the way in the args to the list that a ``foreach`` step's items are from.
        groups: in a resolved config, the members of what was a ``foreach`` step.
    """

    steps: dict[str, Step]
    outputs: Mapping[str, frozenset[str]]
    items: dict[str, list[Any]]
    lists: dict[str, tuple[str, ...]]
    groups: dict[str, list[str]]


# -- steps and their outputs -------------------------------------------------------------------------------------------


def is_step(other: str, name: str, path: Path, scope: Scope, findings: Findings) -> bool:
    """Return whether a step can be waited for; report it if not.

    Args:
        other: what was written.
        name: the step that would wait.
        path: where that was written.
    """
    if other == name:
        findings.report(path, "a step can't wait for itself; remove it")
        return False
    if other not in scope.steps and not findings.is_dropped("steps", other):
        findings.report(path, f"no step {other[:80]!r}{findings.hint(other, scope.steps, 'the other steps are', name)}")
    return other in scope.steps


def read_input(
    value: str | Input, name: str, path: Path, scope: Scope, origin: Origin, findings: Findings, *, as_url: bool
) -> dict[str, Any]:
    """Return ``{"step", "output"}``, ``{"url"}`` or ``{"gather"}``; an empty mapping after a problem.

    Args:
        value: of the input.
        name: the step's.
        path: of the input.
        as_url: whether the step gets URLs, of which it may read every kind.
    """
    if isinstance(value, str):
        if "/" in value or item_references(value):
            return _external(value, name, path, scope, origin, findings, as_url=as_url)
        return _from(value, name, path, scope, findings)
    given = [key for key in ("from_", "url", "step", "output", "gather") if getattr(value, key) is not UNSET]
    if given == ["from_"]:
        return _from(str(value.from_), name, (*path, "from"), scope, findings)
    if given == ["url"]:
        return _external(str(value.url), name, (*path, "url"), scope, origin, findings, as_url=as_url)
    if isinstance(value.gather, list) and given == ["gather"] and origin.is_resolved:
        return {"gather": [_output(part.step, part.output, name, path, scope, findings) for part in value.gather]}
    if given == ["step", "output"]:
        return _output(str(value.step), str(value.output), name, path, scope, findings)
    if not findings.is_dropped(*path):
        findings.report(path, "an input is one of {from: STEP.OUTPUT} and {url: PATH-OR-URL}")
    return {}


def _external(
    text: str, name: str, path: Path, scope: Scope, origin: Origin, findings: Findings, *, as_url: bool
) -> dict[str, str]:
    refuse_interpolation(text, path, origin, findings)
    references = item_references(text)
    for reference in references:
        check_placeholder(reference, name, path, scope, findings)
    if references and references == placeholders.names(text):
        return {"url": text}  # each item makes another of it
    return {"url": external(text, path, origin, findings, as_url=as_url)}


def external(text: str, path: Path, origin: Origin, findings: Findings, *, as_url: bool) -> str:
    """Return the path or URL of an input from outside made absolute."""
    if placeholders.names(text):
        findings.report(path, "placeholders are not read here; an input is a fixed path or URL, or another step's output")
    if not text:
        findings.report(path, "it is empty; write a path or a URL")
    return location(text, path, None if as_url else (*BUCKET_SCHEMES, *WEB), origin, findings)


def _from(text: str, name: str, path: Path, scope: Scope, findings: Findings) -> dict[str, str]:
    other, dot, output = text.partition(".")
    if dot:
        return _output(other, output, name, path, scope, findings)
    hint = f"for a file write ./{text}"
    if other in scope.steps and other != name:
        outputs = scope.steps[other].outputs
        hint = f"write {other}.{outputs[0]}" if outputs else f"step {other!r} has no outputs yet"
    findings.report(path, f"{text[:80]!r} is not STEP.OUTPUT; {hint}")
    return {}


def _output(other: str, output: str, name: str, path: Path, scope: Scope, findings: Findings) -> dict[str, str]:
    if other not in scope.steps and other != name and not findings.is_dropped("steps", other):
        hint = findings.did_you_mean(other, scope.steps, name) or f"; for a file write ./{other}.{output}"
        findings.report(path, f"no step {other[:80]!r}{hint}")
        return {}
    if not is_step(other, name, path, scope, findings):
        return {}
    if output not in scope.outputs[other] and not findings.is_dropped("steps", other, "outputs"):
        outputs = scope.steps[other].outputs
        hint = findings.hint(output, outputs, "it has") if outputs else f"; add outputs: [{output}] to it"
        findings.report(path, f"step {other!r} has no output {output[:80]!r}{hint}")
    return {"step": other, "output": output}


# -- placeholders ------------------------------------------------------------------------------------------------------


def item_references(text: str) -> list[str]:
    """Return the references in a text that begin with ``item``."""
    return [reference for reference in placeholders.names(text) if reference.partition(".")[0] == ITEM]


def check_placeholder(reference: str, name: str, path: Path, scope: Scope, findings: Findings) -> str | None:
    """Return the step that a placeholder makes a parent, if any; report a placeholder that means nothing.

    Args:
        reference: dotted, without its braces.
        name: the step that it stands in.
        path: of the string that it stands in.
    """
    head, *rest = reference.split(".")
    shown = f"{{{reference[:80]}}}"
    if head == ITEM:
        _check_item(rest, name, path, shown, scope, findings)
    elif head == "args":
        check_arg(rest, name, path, shown, scope, findings)
    elif head in HEADS:
        _check_port(head, rest, name, path, shown, scope, findings)
    elif head == name and rest[0] == "values":
        findings.report(path, f"{shown}: a step's own values are there only after it; use another step's")
    elif head in scope.steps or head in scope.groups:
        if rest[0] == "values":
            return head
        write = f"write {{{head}.values.NAME}} for what step {head!r} returned, or name its output in inputs"
        findings.report(path, f"{shown}: {write}")
    elif not findings.is_dropped("steps", head):
        problem, hint = f"no step {head!r}", ""
        if rest[0] != "values":
            heads = (*HEADS, ITEM) if name in scope.items else HEADS
            problem, hint = "this refers to nothing", findings.did_you_mean(head, heads)
        hint = hint or findings.did_you_mean(head, scope.steps, name)
        findings.report(path, f"{shown}: {problem}{hint}; for the plain text write {{{shown}}}")
    return None


def _check_port(head: str, rest: Sequence[str], name: str, path: Path, shown: str, scope: Scope, findings: Findings) -> None:
    """Check a placeholder that begins with ``inputs`` or ``outputs``."""
    names: Collection[str] = scope.steps[name].inputs if head == "inputs" else scope.outputs[name]
    noun = head.removesuffix("s")
    if rest[0] not in names:
        if not findings.is_dropped("steps", name, head):
            findings.report(path, f"{shown}: no {noun} {rest[0]!r}{findings.hint(rest[0], names, 'this step has')}")
    elif len(rest) > 1:
        findings.report(path, f"{shown}: an {noun} has no parts; write {{{head}.{rest[0]}}}")


def check_arg(way: Sequence[str], name: str, path: Path, shown: str, scope: Scope, findings: Findings) -> bool:
    """Return whether a step has the arg that a placeholder names, as far as it is known before the step runs; report it if not.

    Args:
        way: the reference's parts after ``args``.
        name: the step's.
        path: of the string that the placeholder stands in.
        shown: the placeholder, for messages.
    """
    if path[2] == "args":
        findings.report(path, f"{shown}: args can't be made of args; write the value")
        return False
    if (listed := scope.lists.get(name)) and tuple(way[: len(listed)]) == listed:
        findings.report(path, f"{shown}: foreach goes through this list, and the step gets one item of it; write {{{ITEM}}}")
        return False
    value: Any = scope.steps[name].args
    for index, part in enumerate(way):
        if index and isinstance(value, str) and (references := placeholders.names(value)):
            if value == f"{{{references[0]}}}" and item_references(value) and name in scope.items:
                return _check_item([*references[0].split(".")[1:], *way[index:]], name, path, shown, scope, findings)
            if references != item_references(value):
                return True  # what it holds is known only when the step runs
        below = step_into(value, part)
        if below is UNSET:
            if not findings.is_dropped("steps", name, "args"):
                hint = findings.hint(part, value if isinstance(value, dict) else (), "there are")
                findings.report(path, f"{shown}: no arg {'.'.join(way[: index + 1])!r}{hint}")
            return False
        value = below
    return True


def _check_item(way: Sequence[str], name: str, path: Path, shown: str, scope: Scope, findings: Findings) -> bool:
    """Return whether every item of a step has what a placeholder names; report it if not."""
    if name not in scope.items:
        if not findings.is_dropped("steps", name, "foreach"):
            why = f"the step has no foreach, whose items this stands for; for the plain text write {{{shown}}}"
            findings.report(path, f"{shown}: {why}")
        return False
    for index, item in enumerate(scope.items[name]):
        value = item
        for part in way:
            below = step_into(value, part)
            if below is UNSET:
                hint = f"; it is {wording.shown(value)}"
                if isinstance(value, dict):
                    hint = findings.hint(part, value, "it has")
                findings.report(path, f"{shown}: item {index} has no {part!r}{hint}")
                return False
            value = below
    return True


def step_into(value: Any, part: str) -> Any:
    """Return what one part of a reference names in a mapping or list, or UNSET."""
    if isinstance(value, dict):
        return value.get(part, UNSET)
    if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
        return value[int(part)]
    return UNSET
