"""``foreach``: the items that a step runs once for each, and the members that it becomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from backends import wire
from backends.config import placeholders
from backends.config.findings import Findings
from backends.config.paths import Path, strings
from backends.config.placeholders import ITEM
from backends.config.places import Origin, refuse_interpolation
from backends.config.references import Scope, check_arg, external, item_references, step_into
from backends.config.schema import MOST_ITEMS, Step
from backends.config.shape import MEMBER
from backends.config.wording import flow, shown

_MOST_EDGES = 250_000  # to members of foreach steps; each costs some 40 bytes in a document that every attempt reads
_MOST_BYTES = 131_000  # of an item as JSON, which goes into a variable: Linux takes 131,072 for one, its name included


# -- before the steps are read: their items ----------------------------------------------------------------------------


def read(steps: Mapping[str, Step], origin: Origin, findings: Findings) -> Scope:
    """Return all steps with the items of every ``foreach`` step, and in a resolved config the members of what was one."""
    scope = Scope(dict(steps), {name: frozenset(step.outputs) for name, step in steps.items()}, {}, {}, {})
    sizes: dict[str, int] = {}
    for name, step in steps.items():
        path: Path = ("steps", name, "foreach")
        if step.foreach is None:
            continue
        if isinstance(step.foreach, dict) and origin.is_resolved:
            if _is_member(name, step.foreach):
                sizes[step.foreach["of"]] = step.foreach["size"]
                continue
            findings.refuse(path, "this is not what `zen-runner resolve` writes; resolve the config again")
        elif not findings.is_dropped(*path):
            _read_items(name, scope, origin, findings)
        scope.steps[name] = msgspec.structs.replace(scope.steps[name], foreach=None)
    for of, size in sizes.items():
        scope.groups[of] = _members(of, size)
        members = [scope.steps.get(member) for member in scope.groups[of]]
        if of in scope.steps or not all(
            step and isinstance(step.foreach, dict) and step.foreach["size"] == size for step in members
        ):
            message = f"of the foreach step {of!r} some members are missing; resolve the config again"
            findings.report(("steps",), message)
    return scope


def _is_member(name: str, foreach: dict[str, Any]) -> bool:
    """Return whether this is a resolved step's ``foreach``, and the step is called accordingly."""
    if foreach.keys() != MEMBER.keys() or not all(isinstance(foreach[key], kind) for key, kind in MEMBER.items()):
        return False
    return name == f"{foreach['of']}.{foreach['index']}" and 0 <= foreach["index"] < foreach["size"] <= MOST_ITEMS


def _read_items(name: str, scope: Scope, origin: Origin, findings: Findings) -> None:
    """Put the items of a ``foreach`` step into the scope, and the step without the arg that they are from."""
    step = scope.steps[name]
    path: Path = ("steps", name, "foreach")
    items, items_path = step.foreach, path
    if isinstance(items, str) and (way := _args_reference(items)):
        if not check_arg(way, name, path, items, scope, findings) or findings.is_dropped("steps", name, "args"):
            findings.drop(path)
            return
        items, items_path = _value_at(step.args, way), ("steps", name, "args", *way)
        if not isinstance(items, list):
            findings.refuse(path, f"{step.foreach} is {shown(items)}; foreach takes a list")
            return
        scope.lists[name] = tuple(way)
        scope.steps[name] = msgspec.structs.replace(step, args=_without(step.args, way))
    elif not isinstance(items, list):
        fix = f"; write {flow([items])}" if isinstance(items, (str, int, float)) else ""
        findings.refuse(path, f"expected a list, or {{args.NAME}} that is one, got {shown(items)}{fix}")
        return
    scope.items[name] = _checked(items, items_path, origin, findings)


def _args_reference(text: str) -> list[str]:
    """Return the way in the args that a text names if it is one placeholder of such, else an empty list."""
    head, *way = text[1:-1].split(".")
    return way if head == "args" and placeholders.names(text) == [text[1:-1]] else []


def _value_at(value: Any, way: Iterable[str]) -> Any:
    """Return what a way leads to; None where what is on it is known only when the step runs."""
    for part in way:
        value = step_into(value, part)
    return None if value is msgspec.UNSET else value


def _without(data: Any, way: Sequence[str]) -> Any:
    """Return plain data without what is at the end of a way; what is shared is copied."""
    key: Any = int(way[0]) if isinstance(data, list) else way[0]
    rest = data.copy()
    if len(way) == 1:
        del rest[key]
    else:
        rest[key] = _without(data[key], way[1:])
    return rest


def _checked(items: list[Any], path: Path, origin: Origin, findings: Findings) -> list[Any]:
    """Return the items with plain text for their escaped placeholders."""
    if not items:
        findings.refuse(path, "it is empty, so the step would do nothing; give it an item, or remove the step")
    elif len(items) > MOST_ITEMS:
        message = f"{len(items):,} items are more than the {MOST_ITEMS:,} that there may be; let each do more"
        findings.refuse(path, message)
        return []
    for text_path, text in strings(items, path):
        refuse_interpolation(text, text_path, origin, findings)
        if names := placeholders.names(text):
            name = f"{{{names[0][:80]}}}"
            message = f"items are plain values; write it beside {{{ITEM}}}, or for the plain text {{{name}}}"
            findings.report(text_path, f"{name}: {message}")
    for index, item in enumerate(items):
        if (size := len(wire.dumps(item))) > _MOST_BYTES:
            message = f"{size:,} bytes as JSON are more than the {_MOST_BYTES:,} of $ZEN_ITEM; put it into a file"
            findings.report((*path, index), message)
    return [placeholders.substitute(item, lambda way: "") for item in items]


# -- after that: a step for each item ----------------------------------------------------------------------------------


def expand(steps: Mapping[str, dict[str, Any]], scope: Scope, origin: Origin, findings: Findings) -> dict[str, dict[str, Any]]:
    """Return the steps as they run, with each ``foreach`` step's members in its place.

    Args:
        steps: by name, as ``steps.read`` returns each.
    """
    expanded: dict[str, dict[str, Any]] = {}
    edges = 0
    for name, step in steps.items():
        size = len(scope.items.get(name, (None,)))
        edges += size * sum(len(scope.items[parent]) for parent in step["parents"] if parent in scope.items)
        if edges > _MOST_EDGES:
            findings.report(
                ("steps", name),
                f"with this one, steps wait {edges:,} times for members of foreach steps, and {_MOST_EDGES:,} is the most; "
                "put one step between that waits for all members, and let the others wait for that",
            )
            break
        step = _gathering(step, scope)
        if name not in scope.items:
            expanded[name] = {**step, "foreach": scope.steps[name].foreach}
            continue
        before = len(findings.rows)
        for index, item in enumerate(scope.items[name]):
            filled = _filled(step, item, ("steps", name), origin, findings)
            foreach = {"of": name, "index": index, "size": size, "item": item}
            expanded[f"{name}.{index}"] = {**step, **filled, "foreach": foreach}
            if len(findings.rows) > before:
                break  # the other items' would read alike
    return expanded


def _members(name: str, size: int) -> list[str]:
    return [f"{name}.{index}" for index in range(size)]


def _gathering(step: dict[str, Any], scope: Scope) -> dict[str, Any]:
    """Return a step that waits for the members of ``foreach`` steps where it named the steps themselves."""
    members = {name: _members(name, len(scope.items[name])) for name in step["parents"] if name in scope.items}
    if not members:
        return step

    def flat(names: list[str]) -> list[str]:
        return [member for name in names for member in members.get(name, (name,))]

    inputs = {
        key: {"gather": [{"step": member, "output": source["output"]} for member in members[source["step"]]]}
        if source.get("step") in members
        else source
        for key, source in step["inputs"].items()
    }
    return {**step, "inputs": inputs, "after": flat(step["after"]), "parents": sorted(flat(step["parents"]))}


def _filled(step: dict[str, Any], item: Any, path: Path, origin: Origin, findings: Findings) -> dict[str, Any]:
    """Return the parts of a ``foreach`` step that hold the item, for one item."""

    def look_up(reference: tuple[str, ...]) -> Any:
        return _value_at(item, reference[1:])

    try:
        filled: dict[str, Any] = {"args": placeholders.fill(step["args"], ITEM, look_up)}
        if "run" in step:
            filled["run"] = [placeholders.fill_text(text, ITEM, look_up) for text in step["run"]]
        filled["env"] = {name: placeholders.fill_text(text, ITEM, look_up) for name, text in step["env"].items()}
    except ValueError as error:
        findings.report(path, str(error))
        return {}
    filled["inputs"] = inputs = dict(step["inputs"])
    for name, source in inputs.items():
        if item_references(source.get("url", "")):
            text = placeholders.substitute_text(source["url"], look_up)
            url = external(text, (*path, "inputs", name), origin, findings, as_url=step["as"] == "url")
            inputs[name] = {"url": url}
    return filled
