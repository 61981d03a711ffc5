"""From a config as people write it to the resolved one that everything else reads: checked, absolute, all defaults filled in.

Every problem of a document is found in one go and reported in the document's order, with its place and what to write instead.
The passes, each of which runs once and hands down what it made: overrides, types, blocks, steps, cycles, foreach. In all of
them ``findings`` takes the problems, ``origin`` says where the config comes from, and ``scope`` what its steps can name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from backends import graph
from backends.config import foreach, limits, places, steps
from backends.config.blocks import Backends
from backends.config.bounds import MAX_STEPS
from backends.config.document import Document
from backends.config.findings import Enough, Findings
from backends.config.naming import check_name, slug
from backends.config.overrides import override
from backends.config.paths import Path
from backends.config.places import Origin
from backends.config.schema import Config
from backends.config.variables import read_env, read_secret
from backends.errors import ConfigError

_MOST_CYCLES = 20  # reported; one document can hold more than anybody can read


def load(
    doc: Document,
    *,
    base: str,
    name_default: str,
    environ: Mapping[str, str],
    overrides: Sequence[str] = (),
    backend: str | None = None,
) -> dict[str, Any]:
    """Return the resolved config of a document.

    Args:
        doc: from ``document.parse``.
        base: the absolute directory that relative paths start from.
        name_default: the pipeline's name if the document has none; made fit for a name.
        environ: where ``${env:NAME}`` looks.
        overrides: each ``PATH=VALUE``, such as ``steps.train.args.epochs=5``; the value is YAML.
        backend: takes the place of the document's ``backend``.

    Raises:
        ConfigError: with every problem, in the document's order.
        UsageError: an override is not ``PATH=VALUE``.
    """
    findings = Findings(doc.oddities)
    data = doc.data
    for text in overrides:
        data = override(data, text, findings)
    if backend is not None:
        data = {**data, "backend": backend}
        findings.options[("backend",)] = "--backend"
    return _checked(data, base, name_default, environ, findings, doc)


def resolve(data: dict[str, Any], base: str, name_default: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the resolved config of plain data, as :func:`load` does of a document.

    Resolving a resolved config gives an equal one.

    Args:
        data: the config.
        base: the absolute directory that relative paths start from.
        name_default: the pipeline's name if the config has none.
        environ: where ``${env:NAME}`` looks.

    Raises:
        ConfigError: with every problem.
    """
    return _checked(data, base, name_default, environ, Findings(), None)


def _checked(
    data: dict[str, Any], base: str, name_default: str, environ: Mapping[str, str], findings: Findings, doc: Document | None
) -> dict[str, Any]:
    try:
        resolved = _resolved(data, base, name_default, environ, findings)
    except Enough:
        resolved = {}
    if findings.rows:
        raise ConfigError(findings.problems(doc))
    return resolved


def _resolved(
    data: dict[str, Any], base: str, name_default: str, environ: Mapping[str, str], findings: Findings
) -> dict[str, Any]:
    """Return the resolved config; it is of use only if nothing was found."""
    config = _typed(data, findings)
    if config.base is not None and not config.resolved:
        findings.report(("base",), "this key is written by `zen-runner resolve` only; remove it")
    if not config.steps and not findings.is_dropped("steps"):
        findings.report(("steps",), "there are no steps; add one, such as hello: {run: [echo, hello]}")
    origin = Origin(base if config.base is None else config.base, environ, config.resolved)
    backends = Backends(config.backends, origin, findings)
    name = slug(name_default) if config.name is UNSET else config.name
    check_name(name, "a pipeline's name", ("name",), findings)
    store = places.store(config.store, origin, findings)
    code = places.code(config.code, origin, findings)
    image = None if config.image is UNSET else places.image(config.image, ("image",), origin, findings)
    backend = backends.choose(config.backend, ("orchestrator",), ("backend",))
    secrets = {name: read_secret(name, secret, origin, findings) for name, secret in config.secrets.items()}
    env = read_env(config.env, ("env",), origin, findings, of_step=False)
    return {
        "version": 1,
        "resolved": True,
        "name": name,
        "store": store,
        "base": origin.base,
        "code": code,
        "image": image or f"{steps.IMAGE}:cpu",
        "backend": backend,
        "backends": backends.blocks,
        "secrets": secrets,
        "env": env,
        "steps": _steps(config, image, backends, origin, findings),
    }


def _steps(
    config: Config, image: str | None, backends: Backends, origin: Origin, findings: Findings
) -> dict[str, dict[str, Any]]:
    scope = foreach.read(config.steps, origin, findings)
    top = limits.read(config, (), limits.defaults(), findings, is_resolved=origin.is_resolved)
    resolved = {name: steps.read(name, top, image, backends, scope, origin, findings) for name in scope.steps}
    for cycle in graph.cycles({name: step["parents"] for name, step in resolved.items()}, _MOST_CYCLES):
        way = " → ".join((*cycle, cycle[0]))
        fix = "take one of these out of inputs, after or placeholders"
        findings.report(("steps", cycle[0]), f"steps need each other in a cycle: {way}; {fix}")
    return resolved if findings.rows else foreach.expand(resolved, scope, origin, findings)


def _typed(data: dict[str, Any], findings: Findings) -> Config:
    """Return the config as its types, without what doesn't fit them."""
    if isinstance(data.get("steps"), dict) and (count := len(data["steps"])) > MAX_STEPS:
        findings.stop(("steps",), f"{count:,} steps are more than the {MAX_STEPS:,} that there may be; let each do more")
    unread = {path for path, _, _ in findings.rows if _is_missing(data, path)}
    for path in unread:
        findings.drop(path)
    try:
        return msgspec.convert(data, Config)
    except msgspec.ValidationError:
        pass
    from backends.config import explain  # only a config that is wrong needs it

    rest = explain.Walk(findings).value(data, msgspec.inspect.type_info(Config), ())
    # What is wrong with a value that couldn't even be read was said when it was read.
    findings.rows = [row for row in findings.rows if row[2] is not None or row[0] not in unread]
    try:
        return msgspec.convert({"version": 1, "steps": {}, **({} if rest is explain.WRONG else rest)}, Config)
    except msgspec.ValidationError as error:  # the walk is there to find it all; this is for what it doesn't know
        raise ConfigError(str(error)) from error


def _is_missing(data: Any, path: Path) -> bool:
    """Return whether nothing, or null, is at a path whose surroundings are there."""
    for part in path:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return False
    return data is None
