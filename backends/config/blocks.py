"""Backends: their blocks, and which of them a ``backend`` key means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends import base, registry
from backends.config.findings import Findings
from backends.config.naming import check_name, is_function
from backends.config.paths import Path
from backends.config.places import Origin, interpolate_all
from backends.config.schema import Block
from backends.errors import ConfigError


class Backends:
    """The backends of one config.

    Args:
        blocks: the config's ``backends``.

    Attributes:
        blocks: the same as plain data with all keys, by name; None for one that nothing is known of.
    """

    def __init__(self, blocks: Mapping[str, Block], origin: Origin, findings: Findings) -> None:
        self._origin = origin
        self._findings = findings
        self._registered: dict[str, list[str]] = {}  # the names of a role; reading them takes long
        self.blocks: dict[str, dict[str, Any] | None] = {}
        for name, block in blocks.items():
            check_name(name, "a backend's name", ("backends", name), findings)
            self.blocks[name] = self._read(block, ("backends", name))

    def choose(self, value: str | Block | None, roles: tuple[str, ...], path: Path) -> dict[str, Any] | None:
        """Return the block that a ``backend`` key means.

        Args:
            value: of the key.
            roles: which a backend may have there.
            path: of the key.
        """
        if value is None:
            return None
        if isinstance(value, Block):
            if value.type not in roles:
                self._findings.report((*path, "type"), f"{value.type} is not right here; write {' or '.join(roles)}")
            return self._read(value, path)
        block = self.blocks.get(value)
        if block is not None and block["type"] in roles:
            return block
        for role in roles:
            if self._is_registered(role, value):
                return {"type": role, "source": value, "args": {}}
        if not self._findings.is_dropped("backends", value) and (block is not None or value not in self.blocks):
            self._report_unfit(value, block, roles, path)  # else that block has a problem of its own
        return None

    def _report_unfit(self, name: str, block: dict[str, Any] | None, roles: tuple[str, ...], path: Path) -> None:
        role = " or ".join(roles)
        if block is not None:
            self._findings.report(path, f"the backend {name!r} is of type {block['type']}; here goes one of type {role}")
            return
        own = [other for other, one in self.blocks.items() if one is None or one["type"] in roles]
        names = sorted({*own, *(other for one in roles for other in self._names(one))})
        hint = self._findings.hint(name, names, "there are")
        self._findings.report(path, f"no {role} backend {name[:80]!r}{hint}")

    def _read(self, block: Block, path: Path) -> dict[str, Any] | None:
        args = interpolate_all(block.args, (*path, "args"), self._origin, self._findings)
        plain = {"type": block.type, "source": block.source, "args": args}
        if ":" in block.source:
            if not is_function(block.source):
                message = f"{block.source[:80]!r} is neither a short name nor package.module:Class"
                self._findings.report((*path, "source"), message)
            return plain
        if not self._is_registered(block.type, block.source):
            hint = self._findings.hint(block.source, self._names(block.type), "there are")
            if others := [role for role in registry.ROLES if self._is_registered(role, block.source)]:
                hint = f"; the one of that name is of type {others[0]}"
            self._findings.report((*path, "source"), f"no {block.type} backend {block.source[:80]!r}{hint}")
            return None
        if args and registry.is_built_in(block.type, block.source):
            self._check_args(plain, path)
        return plain

    def _check_args(self, block: dict[str, Any], path: Path) -> None:
        try:
            base.load(block)
        except ConfigError as error:
            for problem in error.problems:  # only what the config can mend; whether the backend works here is another matter
                if problem.path.startswith("args"):
                    self._findings.report((*path, *problem.path.split(".")), problem.message)

    def _names(self, role: str) -> list[str]:
        if role not in self._registered:
            self._registered[role] = registry.names(role)
        return self._registered[role]

    def _is_registered(self, role: str, name: str) -> bool:
        return registry.is_built_in(role, name) or name in self._names(role)


def engine(kind: str | None, backend: Mapping[str, Any] | None, path: Path, findings: Findings) -> str | None:
    """Return the engine that a step runs on, ``beam``, ``spark`` or None, and check that its backend is for such a step.

    Args:
        kind: of the step; None where that is unclear.
        backend: the step's block.
        path: of the step's ``backend``.
    """
    own = kind if kind in ("beam", "spark") else None
    if backend is None:
        return own
    if backend["type"] == "training":
        if own:
            findings.report(path, f"a training backend runs call and run steps, and this is a {own} step; write a processing one")
        return own
    if not registry.is_built_in("processing", backend["source"]):
        return own  # whose class is imported only when the step runs
    cls: Any = base.class_of("processing", backend["source"])
    if kind is not None and kind not in (cls.FRAMEWORK, "run"):
        message = f"the backend {backend['source']!r} runs {cls.FRAMEWORK} and run steps, and this is a {kind} step"
        findings.report(path, f"{message}; {'remove it' if kind == 'call' else 'write one for ' + kind}")
    return str(cls.FRAMEWORK)
