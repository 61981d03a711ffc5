"""``--set PATH=VALUE``: change a document's data before it is checked."""

from __future__ import annotations

from typing import Any

from backends.config import document, placeholders
from backends.config.findings import Findings
from backends.config.paths import Path
from backends.errors import UsageError


def override(data: dict[str, Any], text: str, findings: Findings) -> dict[str, Any]:
    """Return a document's data with one ``PATH=VALUE`` applied; what is shared is copied first.

    Raises:
        UsageError: the text is not ``PATH=VALUE``.
    """
    way, equals, written = text.partition("=")
    parts = way.strip().split(".")
    if not equals or not all(parts):
        raise UsageError(f"--set takes PATH=VALUE, such as --set steps.train.args.epochs=5, not {way!r}")
    member = ".".join(parts[1:3])
    if parts[0] == "steps" and isinstance(data.get("steps"), dict) and member in data["steps"]:
        parts[1:3] = [member]  # of what was a foreach step
    path = tuple(parts)
    findings.options[path] = "--set"
    try:
        # A placeholder alone would be a mapping to YAML, which nobody means.
        value = written if placeholders.names(written) == [written[1:-1]] else document.parse_value(written)
    except ValueError as error:
        findings.refuse(path, f"the value can't be read: {error}")
        return data
    if data.get("resolved") is True and parts[0] == "image":
        findings.refuse(path, "this config is resolved, so each step has its image; set steps.NAME.image")
        return data
    try:
        return _changed(data, parts, value, findings)
    except ValueError as error:
        findings.refuse(path, str(error))
        return data


def _changed(data: dict[str, Any], parts: list[str], value: object, findings: Findings) -> dict[str, Any]:
    """Return the data with one value set, or raise a ``ValueError`` that says why it can't be."""
    changed = dict(data)
    node: Any = changed
    node_path: Path = ()
    for index, part in enumerate(parts):
        key: Any = _key(node, part, node_path)
        last = index == len(parts) - 1
        if not last and index == 1 and parts[0] in ("steps", "backends") and isinstance(node, dict) and part not in node:
            raise ValueError(f"no {parts[0][:-1]} {part!r}{findings.hint(part, node, 'there are')}")
        node_path = (*node_path, key)
        if last:
            node[key] = value
            findings.options[node_path] = "--set"
            break
        below = node[key] if isinstance(node, list) else node.get(key)
        if below is None:
            findings.options[node_path] = "--set"
        elif not isinstance(below, (dict, list)):
            hint = ""
            if part == "backend" and isinstance(data.get("backends"), dict) and below in data["backends"]:
                hint = f"; it names a backend, so set backends.{below}.{'.'.join(parts[index + 1 :])}"
            raise ValueError(f"{'.'.join(parts[: index + 1])} is a single value, so nothing in it can be set{hint}")
        node[key] = {} if below is None else below.copy()  # aliases may share it
        node = node[key]
    return changed


def _key(node: dict[str, Any] | list[Any], part: str, path: Path) -> str | int:
    """Return one part of the path as the key, or the position, that it is in the list or mapping it leads into."""
    if isinstance(node, dict):
        return part
    if not part.isdecimal() or int(part) >= len(node):
        raise ValueError(f"{'.'.join(map(str, path))} is a list of {len(node)}; write a position from 0 to {len(node) - 1}")
    return int(part)
