"""``foreach``: the items that a step runs once for each, and the members that it becomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from backends import wire
from backends.config import placeholders
from backends.config.bounds import MAX_BYTES, MAX_STEPS
from backends.config.findings import Findings
from backends.config.paths import Path, strings
from backends.config.placeholders import ITEM
from backends.config.places import Origin, refuse_interpolation
from backends.config.references import Scope, check_arg, external, item_references, step_into
from backends.config.schema import MOST_ITEMS, Step
from backends.config.shape import MEMBER
from backends.config.wording import flow, shown

_MOST_EDGES = 250_000  # to members of foreach steps; each costs some 40 bytes in a document that every attempt reads
_MOST_FILLINGS = 250_000  # of placeholders, each of which takes some microseconds
_MOST_BYTES = 131_000  # of an item as JSON, which goes into a variable: Linux takes 131,072 for one, its name included


# -- before the steps are read: their items ----------------------------------------------------------------------------


def read(steps: Mapping[str, Step], origin: Origin, findings: Findings) -> Scope:
    """Return all steps with the items of every ``foreach`` step, and in a resolved config the members of what was one.

    Raises:
        Enough: there are too many steps.
    """
    scope = Scope(dict(steps), {name: frozenset(step.outputs) for name, step in steps.items()}, {}, {}, {})
    total = 0
    for name, step in steps.items():
        if step.foreach is not None and not (origin.is_resolved and _is_member(name, step.foreach)):
            _read_foreach(name, scope, origin, findings)
        total += len(scope.items.get(name, (None,)))
        if total > MAX_STEPS:
            findings.stop(("steps", name), f"with this one there are more than {MAX_STEPS:,} steps; let each do more")
    members = [step.foreach for step in scope.steps.values() if isinstance(step.foreach, dict)]
    counts = Counter((foreach["of"], foreach["size"]) for foreach in members)
    sizes = {foreach["of"]: foreach["size"] for foreach in members}
    for of, size in sizes.items():
        # As many as their number says, each with a name of its own, so that is all of them.
        if of in scope.steps or counts[of, size] != size:
            message = f"of the foreach step {of!r} some members are missing; resolve the config again"
            findings.report(("steps",), message)
        else:
            scope.groups[of] = _members(of, size)
    return scope


def _read_foreach(name: str, scope: Scope, origin: Origin, findings: Findings) -> None:
    """Read a step's ``foreach``, unless it is what resolving left."""
    path: Path = ("steps", name, "foreach")
    if isinstance(scope.steps[name].foreach, dict) and origin.is_resolved:
        findings.refuse(path, "this is not what `zen-runner resolve` writes; resolve the config again")
    elif not findings.is_dropped(*path):
        _read_items(name, scope, origin, findings)
        _check_placeholders(name, scope, findings)
    scope.steps[name] = msgspec.structs.replace(scope.steps[name], foreach=None)


def _check_placeholders(name: str, scope: Scope, findings: Findings) -> None:
    """Stop if a step has so many placeholders for its items that filling them in would take long."""
    step, size = scope.steps[name], len(scope.items.get(name, ()))
    urls = [one if isinstance(one, str) else one.url for one in step.inputs.values()]
    texts = strings([step.run, step.args, step.env, urls], ())
    count = size * sum(len(item_references(text)) for _, text in texts)
    if count > _MOST_FILLINGS:
        message = f"placeholders for its {size:,} items are to be filled in {count:,} times, and {_MOST_FILLINGS:,} is the most"
        findings.stop(("steps", name), f"{message}; use fewer of them, or one {{{ITEM}}} for all")


def _is_member(name: str, foreach: Any) -> bool:
    """Return whether this is a resolved step's ``foreach``, and the step is called accordingly."""
    if (
        not isinstance(foreach, dict)
        or foreach.keys() != MEMBER.keys()
        or not all(isinstance(foreach[key], kind) for key, kind in MEMBER.items())
    ):
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

    Raises:
        Enough: there is too much of it.
    """
    expanded: dict[str, dict[str, Any]] = {}
    bounds = _Bounds(scope, findings)
    for name, step in steps.items():
        bounds.add(name, step)
        step = _gathering(step, scope)
        if name not in scope.items:
            expanded[name] = {**step, "foreach": scope.steps[name].foreach}
            continue
        before = len(findings.rows)
        for index, item in enumerate(scope.items[name]):
            filled = _filled(step, item, ("steps", name), origin, findings)
            foreach = {"of": name, "index": index, "size": len(scope.items[name]), "item": item}
            expanded[f"{name}.{index}"] = {**step, **filled, "foreach": foreach}
            if len(findings.rows) > before:
                break  # the other items' would read alike
    return expanded


class _Bounds:
    """How much the steps come to once they are expanded, counted before they are."""

    def __init__(self, scope: Scope, findings: Findings) -> None:
        self._scope = scope
        self._findings = findings
        self._edges = 0
        self._bytes = 0

    def add(self, name: str, step: dict[str, Any]) -> None:
        """Count one step with all its members.

        Raises:
            Enough: with this one it is too much.
        """
        items = self._scope.items.get(name)
        size = 1 if items is None else len(items)
        sizes = {parent: len(self._scope.items[parent]) for parent in step["parents"] if parent in self._scope.items}
        gathered = sum(sizes.get(source.get("step", ""), 0) for source in step["inputs"].values())
        self._edges += size * max(sum(sizes.values()), gathered)
        if self._edges > _MOST_EDGES:
            self._findings.stop(
                ("steps", name),
                f"with this one, steps wait {self._edges:,} times for members of foreach steps, and {_MOST_EDGES:,} is the most; "
                "put one step between that waits for all members, and let the others wait for that",
            )
        self._bytes += size * len(wire.dumps(step))
        if items is not None and self._bytes <= MAX_BYTES:
            self._bytes += self._filled(step, items)
        if self._bytes > MAX_BYTES:
            message = f"with this one, the resolved config has more than {MAX_BYTES >> 20} MiB; put what is long into a file"
            self._findings.stop(("steps", name), message)

    def _filled(self, step: dict[str, Any], items: list[Any]) -> int:
        """Return how many bytes the items take where placeholders stand for them, or more than the bound."""
        urls = [source.get("url", "") for source in step["inputs"].values()]
        texts = strings([step.get("run"), step["args"], step["env"], urls], ())
        ways = Counter([ITEM, *(reference for _, text in texts for reference in item_references(text))])
        count = 0
        for item in items:
            for way, times in ways.items():
                count += times * len(wire.dumps(_value_at(item, way.split(".")[1:])))
            if count > MAX_BYTES:
                break
        return count


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
