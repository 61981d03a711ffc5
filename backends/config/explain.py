"""Compare plain data with its declared types and word every difference for people.

``msgspec.convert`` checks a good document in one quick pass but stops at the first error. Only then this slower walk finds all of
them, and returns what is left when the wrong parts are taken out, so that the other checks can go on.
"""

from __future__ import annotations

import shlex
from typing import Any

from msgspec import UNSET, inspect

from backends.config.findings import Findings
from backends.config.paths import Path
from backends.config.schema import INTERNAL
from backends.config.wording import cut, flow, shown

WRONG: Any = object()  # what is left of a value that can't be used


class Walk:
    """One walk over one document."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings

    def value(self, value: Any, kind: inspect.Type, path: Path, example: object = UNSET) -> Any:
        """Return ``value`` without the parts that are not as ``kind`` declares, or ``WRONG`` if nothing is left."""
        while isinstance(kind, inspect.Metadata):
            example = ((kind.extra_json_schema or {}).get("examples") or [example])[0]
            kind = kind.type
        if isinstance(kind, inspect.UnionType):
            for one in kind.types:
                if _is_kind(value, one):
                    return self.value(value, one, path, example)
            return self._wrong(value, kind, path, example)
        if not _is_kind(value, kind):
            return self._wrong(value, kind, path, example)
        if isinstance(kind, inspect.StructType):
            return self._struct(value, kind, path)
        if isinstance(kind, inspect.DictType):
            below = next(iter(example.values())) if isinstance(example, dict) and example else UNSET
            left = {key: self.value(item, kind.value_type, (*path, key), below) for key, item in value.items()}
            return {key: item for key, item in left.items() if item is not WRONG}
        if isinstance(kind, inspect.ListType):
            items = [self.value(item, kind.item_type, (*path, index)) for index, item in enumerate(value)]
            return ["" if item is WRONG else item for item in items]  # all lists are of strings; the others keep their positions
        if isinstance(kind, inspect.LiteralType) and (value not in kind.values or isinstance(value, bool)):
            known = " or ".join(map(str, kind.values))
            hint = self._findings.did_you_mean(value, [str(one) for one in kind.values]) if isinstance(value, str) else ""
            self._findings.refuse(path, f"{shown(value)} is not known here{hint or '; write ' + known}")
            return WRONG
        return value

    def _struct(self, value: dict[str, Any], kind: inspect.StructType, path: Path) -> Any:
        fields = {field.encode_name: field for field in kind.fields}
        kept: dict[str, Any] = {}
        for key, item in value.items():
            if key not in fields:
                self._unknown(key, [name for name in fields if name not in INTERNAL], path)
                continue
            left = self.value(item, fields[key].type, (*path, key))
            if left is not WRONG:
                kept[key] = left
        for name, field in fields.items():
            if field.required and name not in value:
                self._findings.refuse((*path, name), f"missing; add {name}: {_example(field.type)}")
        # The document itself is looked at even without what it must have; another mapping is of no use then.
        return WRONG if path and any(field.required and name not in kept for name, field in fields.items()) else kept

    def _unknown(self, key: str, known: list[str], path: Path) -> None:
        if _is_secret((*path, key)):
            self._findings.refuse(path, f"a key that is not known here; the keys are {', '.join(known)}")
            return
        hint = self._findings.did_you_mean(key, known) or f"; the keys here are {', '.join(known)}"
        self._findings.refuse((*path, key), f"unknown key {cut(key)!r}{hint}")

    def _wrong(self, value: Any, kind: inspect.Type, path: Path, example: object) -> Any:
        if _is_secret(path):
            self._findings.refuse(
                path, f"expected {named(kind)}; a secret is a reference, never the value itself; write such as {flow(example)}"
            )
            return WRONG
        self._findings.refuse(path, f"expected {named(kind)}, got {shown(value)}{_fix(value, kind, example, path)}")
        return WRONG


def _is_secret(path: Path) -> bool:
    """Return whether messages must not repeat the value at a path."""
    return path[:1] == ("secrets",)


def _example(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.Metadata) and (kind.extra_json_schema or {}).get("examples"):
        return flow(kind.extra_json_schema["examples"][0])  # type: ignore[index]
    return f"({named(kind)})"


def _kinds(kind: inspect.Type) -> list[inspect.Type]:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        return [one for part in kind.types for one in _kinds(part)]
    return [kind]


def _is_kind(value: object, kind: inspect.Type) -> bool:
    """Return whether a value is of the outer kind of a type; what it holds is not looked at."""
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        return any(_is_kind(value, one) for one in kind.types)
    if isinstance(kind, inspect.AnyType):
        return True
    if isinstance(kind, inspect.LiteralType):
        return any(type(value) is type(one) for one in kind.values)
    if isinstance(value, bool) or value is None:
        return isinstance(kind, inspect.BoolType if value is not None else inspect.NoneType)
    kinds: tuple[tuple[type, Any], ...] = (
        (str, inspect.StrType),
        (int, (inspect.IntType, inspect.FloatType)),
        (float, inspect.FloatType),
        (dict, (inspect.StructType, inspect.DictType)),
        (list, inspect.ListType),
    )
    return any(isinstance(value, python) and isinstance(kind, ours) for python, ours in kinds)


def named(kind: inspect.Type) -> str:
    """Return a type's name in plain words."""
    words: list[str] = []
    for one in _kinds(kind):
        if isinstance(one, inspect.ListType):
            items = named(one.item_type)
            word = "a list of " + items.removeprefix("a ") + "s" if items == "a string" else "a list"
        elif isinstance(one, inspect.LiteralType):
            word = " or ".join(map(str, one.values))
        else:
            word = {
                inspect.StrType: "a string",
                inspect.IntType: "a whole number",
                inspect.FloatType: "a number",
                inspect.BoolType: "true or false",
                inspect.NoneType: "null",
            }.get(type(one), "a mapping")
        if word not in words:
            words.append(word)
    if "a number" in words and "a whole number" in words:
        words.remove("a whole number")
    return " or ".join(words)


def _fix(value: Any, kind: inspect.Type, example: object, path: Path) -> str:
    """Return what to write instead, as the end of a message."""
    wanted = {type(one) for one in _kinds(kind)}
    if inspect.ListType in wanted and isinstance(value, (str, dict)):
        words = list(value)
        if isinstance(value, str):
            words = _argv(value) if path[-1:] == ("run",) else [value]
        if words and len(words) <= 12:
            return f"; write {cut(flow(words), 120)}"
    if isinstance(value, str):
        if inspect.BoolType in wanted and value.lower() in _BOOLEANS:
            return f"; write {_BOOLEANS[value.lower()]}"
        if (
            wanted & {inspect.IntType, inspect.FloatType, inspect.LiteralType}
            and value.strip().lstrip("-").replace(".", "", 1).isdigit()
        ):
            return f"; write {value.strip()} without quotes"
    if inspect.StrType in wanted and isinstance(value, (bool, int, float)):
        return f'; write it in quotes: "{shown(value).removeprefix("the number ")}"'
    if example is not UNSET:
        return f"; write such as {flow(example)}"
    if value is None:
        if inspect.StrType in wanted:
            return '; write "" for an empty one, or remove the key'
        return f"; write {'{}' if wanted & {inspect.DictType, inspect.StructType} else 'a value'} or remove the key"
    return ""


_BOOLEANS = {
    "yes": "true",
    "on": "true",
    "true": "true",
    "y": "true",
    "no": "false",
    "off": "false",
    "false": "false",
    "n": "false",
}


def _argv(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return [text]
