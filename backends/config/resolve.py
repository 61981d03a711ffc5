"""From a config as people write it to the resolved one that everything else reads: checked, absolute, all defaults filled in.

Every problem of a document is found in one pass and reported in the document's order, with its place and what to write instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from keyword import iskeyword
from typing import Any

import msgspec
from msgspec import UNSET

from backends import outcome, registry, wire
from backends.config import document, placeholders, quantities
from backends.config.naming import NAME_RULE, is_function, is_identifier, is_name, looks_secret, slug
from backends.config.placeholders import ITEM
from backends.config.schema import KINDS, MOST_ITEMS, Block, Config, Input, Resources, Retry, Secret, Step
from backends.errors import ConfigError, Problem, UsageError
from backends.store.base import BUCKET_SCHEMES
from backends.text import did_you_mean

Path = tuple[str | int, ...]
_IMAGE = "zen-runner"
_WEB = ("http", "https")
_HEADS = ("inputs", "outputs", "args")  # what a placeholder begins with, if not with a step's name
_MOST_COMPARISONS = 200_000  # for did-you-mean; past that a hint isn't worth the wait
_MOST_CYCLES = 20  # reported; one document can hold more circles than anybody can read
_MOST_EDGES = 250_000  # to members of foreach steps; each costs some 40 bytes in a document that every attempt reads
_MOST_BYTES = 131_000  # of an item as JSON, which goes into a variable: Linux takes 131,072 for one, its name included
_NO_RESOURCES = {"cpu": None, "memory": None, "gpu": 0, "gpu_memory": None, "cuda": None}
_MEMBER = {"of": str, "index": int, "size": int, "item": object}  # a resolved step's `foreach`


def load(
    doc: document.Document,
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
    resolver = _Resolver(base, name_default, environ)
    resolver.found = [(path, message, place) for path, message, place in doc.found]
    data = doc.data
    for text in overrides:
        data = resolver.override(data, text)
    if backend is not None:
        data = {**data, "backend": backend}
        resolver.given[("backend",)] = "--backend"
    resolved = resolver.resolve(data)
    if resolver.found:
        raise ConfigError(_problems(resolver, doc))
    return resolved


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
    resolver = _Resolver(base, name_default, environ)
    resolved = resolver.resolve(data)
    if resolver.found:
        raise ConfigError(_problems(resolver, None))
    return resolved


def _problems(resolver: _Resolver, doc: document.Document | None) -> list[Problem]:
    """Return what was found as problems with their places, in the document's order."""
    places = doc.places(path for path, _, place in resolver.found if place is None) if doc else {}
    rows = []
    for path, message, place in resolver.found:
        given = resolver.given_at(path) if place is None else None
        at = place or places.get(path, (0, 0))
        if given:
            where = given
        else:
            where = f"{doc.origin}:{at[0]}" if doc else ""
        rows.append((given is not None, at, Problem(where, _dotted(path), message)))
    rows.sort(key=lambda row: row[:2])
    return list({str(problem): problem for _, _, problem in rows}.values())


def _dotted(path: Path) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _at(data: Any, path: Path) -> Any:
    """Return what is at a path, or None."""
    for part in path:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return UNSET
    return data


def _some(names: Iterable[str], but: str = "") -> str:
    """Return the first names of many as text, without ``but``."""
    first = list(islice((name for name in names if name != but), 11))
    return ", ".join(first[:10]) + (", …" if len(first) > 10 else "") or "none"


def _strings(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Yield every string in plain data."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _strings(item, (*path, index))


class _Resolver:
    """One pass over one config.

    Attributes:
        found: path, message and, where it is known already, the place of every problem.
        given: the paths that an option set, with the option's name.
    """

    def __init__(self, base: str, name_default: str, environ: Mapping[str, str]) -> None:
        self.found: list[tuple[Path, str, document.Place | None]] = []
        self.given: dict[Path, str] = {}
        self._base = base
        self._name_default = name_default
        self._environ = environ
        self._broken: set[Path] = set()  # paths of values that were taken out
        self._touched: set[Path] = set()  # and everything above them
        self._was_resolved = False
        self._config: Config
        self._blocks: dict[str, dict[str, Any] | None] = {}
        self._outputs: dict[str, frozenset[str]] = {}
        self._items: dict[str, list[Any]] = {}  # of the foreach steps
        self._listed: dict[str, tuple[str, ...]] = {}  # the arg that a foreach step's items are from
        self._groups: dict[str, list[str]] = {}  # in a resolved config: the members of what was a foreach step
        self._registered: dict[str, list[str]] = {}
        self._comparisons = 0  # made for hints

    def report(self, path: Path, message: str) -> None:
        """Note a problem, unless the value there was taken out for another."""
        if not any(path[:n] in self._broken for n in range(1, len(path) + 1)):
            self.found.append((path, message, None))

    def given_at(self, path: Path) -> str | None:
        """Return the option that set what is at ``path``, or None."""
        if not self.given:
            return None
        return next((self.given[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.given), None)

    def did_you_mean(self, word: str, known: Collection[str], but: str = "") -> str:
        """Return `` (did you mean 'x'?)`` or an empty string, within a bound for the whole document.

        Args:
            word: what was written.
            known: what could have been meant.
            but: one of the known that could not.
        """
        self._comparisons += len(known)
        if self._comparisons > _MOST_COMPARISONS or len(word) > 100:
            return ""
        return did_you_mean(word, [one for one in known if one != but])

    def _hint(self, word: str, known: Collection[str], otherwise: str, but: str = "") -> str:
        """Return `` (did you mean 'x'?)``, or else what is known, after the words ``otherwise``."""
        return self.did_you_mean(word, known, but) or f"; {otherwise} {_some(known, but)}"

    def _names(self, role: str) -> list[str]:
        if role not in self._registered:
            self._registered[role] = registry.names(role)
        return self._registered[role]

    def _is_registered(self, role: str, name: str) -> bool:
        return f"{role}.{name}" in registry.BUILTIN or name in self._names(role)

    # -- --set ---------------------------------------------------------------------------------------------------------

    def override(self, data: dict[str, Any], text: str) -> dict[str, Any]:
        """Return ``data`` with one ``PATH=VALUE`` applied; what is shared is copied first."""
        dotted, equals, written = text.partition("=")
        parts = dotted.strip().split(".")
        if not equals or not all(parts):
            raise UsageError(f"--set takes PATH=VALUE, such as --set steps.train.args.epochs=5, not {dotted!r}")
        member = ".".join(parts[1:3])
        if parts[0] == "steps" and isinstance(data.get("steps"), dict) and member in data["steps"]:
            parts[1:3] = [member]  # of what was a foreach step
        path = tuple(parts)
        self.given[path] = "--set"
        try:
            # A placeholder alone would be a mapping to YAML, which nobody means.
            value = written if placeholders.names(written) == [written[1:-1]] else document.parse_value(written)
        except ValueError as error:
            self._break(path, f"the value can't be read: {error}")
            return data
        if data.get("resolved") is True and parts[0] == "image":
            self._break(path, "this config is resolved, so each step has its image; set steps.NAME.image")
            return data
        changed = dict(data)
        node: Any = changed
        place: Path = ()
        for index, part in enumerate(parts):
            at = path[:index]
            key: Any = part
            if isinstance(node, list):
                if not part.isdecimal() or int(part) >= len(node):
                    self._break(path, f"{_dotted(at)} is a list of {len(node)}; write a position from 0 to {len(node) - 1}")
                    return data
                key = int(part)
            place = (*place, key)
            if index == len(parts) - 1:
                node[key] = value
                self.given[place] = "--set"
                break
            if at and at[0] in ("steps", "backends") and index == 1 and part not in node:
                hint = self._hint(part, node, "there are")
                self._break(path, f"no {at[0][:-1]} {part!r}{hint}")
                return data
            below = node[key] if isinstance(node, list) else node.get(key)
            if below is not None and not isinstance(below, (dict, list)):
                hint = ""
                if part == "backend" and isinstance(data.get("backends"), dict) and below in data["backends"]:
                    hint = f"; it names a backend, so set backends.{below}.{'.'.join(parts[index + 1 :])}"
                self._break(path, f"{_dotted(path[: index + 1])} is a single value, so nothing in it can be set{hint}")
                return data
            if below is None:
                self.given[place] = "--set"
            node[key] = {} if below is None else below.copy()  # aliases may share it
            node = node[key]
        return changed

    # -- the types -----------------------------------------------------------------------------------------------------

    def _break(self, path: Path, message: str) -> None:
        self.found.append((path, message, None))
        self._take_out(path)

    def _take_out(self, path: Path) -> None:
        self._broken.add(path)
        self._touched.update(path[:n] for n in range(len(path) + 1))

    def _is_broken(self, *path: str | int) -> bool:
        """Tell whether something at, above or below a path was taken out, so that what follows from it is no news."""
        return path in self._touched or any(path[:n] in self._broken for n in range(len(path)))

    def _typed(self, data: dict[str, Any]) -> Config:
        """Return the config as its types, without what doesn't fit them."""
        unread = {path for path, _, _ in self.found if _at(data, path) is None}
        for path in unread:
            self._take_out(path)
        try:
            return msgspec.convert(data, Config)
        except msgspec.ValidationError:
            pass
        from backends.config.explain import WRONG, Walk

        kind = msgspec.inspect.type_info(Config)
        left = Walk(self._break, self.did_you_mean, lambda path: path[:1] == ("secrets",)).value(data, kind, ())
        # What is wrong with a value that couldn't even be read was said when it was read.
        self.found = [row for row in self.found if row[2] is not None or row[0] not in unread]
        try:
            return msgspec.convert({"version": 1, "steps": {}, **({} if left is WRONG else left)}, Config)
        except msgspec.ValidationError as error:  # the walk is there to find it all; this is for what it doesn't know
            raise ConfigError(str(error)) from error

    # -- the whole -----------------------------------------------------------------------------------------------------

    def resolve(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the resolved config; it is of use only if ``found`` stays empty."""
        config = self._config = self._typed(data)
        self._was_resolved = config.resolved
        if config.base is not None:
            if not config.resolved:
                self.report(("base",), "this key is written by `zen-runner resolve` only; remove it")
            self._base = config.base
        if not config.steps and not self._is_broken("steps"):
            self.report(("steps",), "there are no steps; add one, such as hello: {run: [echo, hello]}")
        for name, block in config.backends.items():
            self._check_name(("backends", name), name, "a backend's name")
            self._blocks[name] = self._block(block, ("backends", name))
        name = slug(self._name_default) if config.name is UNSET else config.name
        self._check_name(("name",), name, "a pipeline's name")
        resolved: dict[str, Any] = {
            "version": 1,
            "resolved": True,
            "name": name,
            "store": self._store(config.store),
            "base": self._base,
            "code": self._code(config.code),
            "image": f"{_IMAGE}:cpu" if config.image is UNSET else self._image(config.image, ("image",)),
            "backend": self._backend(config.backend, ("orchestrator",), ("backend",)),
            "backends": self._blocks,
            "secrets": {name: self._secret(secret, name) for name, secret in config.secrets.items()},
            "env": self._env(config.env, (), None),
        }
        self._outputs = {name: frozenset(step.outputs) for name, step in config.steps.items()}
        self._read_foreach()
        top = self._limits(config, (), None)
        top["image"] = None if config.image is UNSET else resolved["image"]
        steps = {name: self._step(name, step, top) for name, step in config.steps.items()}
        resolved["steps"] = steps
        for cycle in _cycles({name: step["parents"] for name, step in steps.items()}):
            self.report(
                ("steps", cycle[0]),
                "steps need each other in a circle: " + " → ".join((*cycle, cycle[0])) + "; take one of these out of "
                "inputs, after or placeholders",
            )
        if not self.found:
            resolved["steps"] = self._expanded(steps)
        return resolved

    def _check_name(self, path: Path, name: str, what: str) -> None:
        if not is_name(name):
            self.report(path, f"{name[:80]!r} is not {what} ({NAME_RULE}); write such as {slug(name)}")

    # -- places --------------------------------------------------------------------------------------------------------

    def _interpolate(self, text: str, path: Path) -> str:
        """Return the text with each ``${env:NAME}`` and ``${env:NAME:-default}`` replaced."""
        if "${env:" not in text or self._was_resolved:
            return text
        parts, rest = [], text
        while True:
            before, mark, rest = rest.partition("${env:")
            parts.append(before)
            if not mark:
                return "".join(parts)
            inside, brace, rest = rest.partition("}")
            name, has_default, default = inside.partition(":-")
            if not brace or not is_identifier(name):
                self.report(path, "'${env:' is followed by a variable's name and '}'; write ${env:NAME} or ${env:NAME:-default}")
                return text
            if looks_secret(name):
                self.report(path, f"${{env:{name}}} looks secret, and a config is stored and printed; use `secrets`")
                return text
            value = self._environ.get(name)
            if has_default and not value:
                value = default
            if value is None:
                self.report(path, f"${name} is not set; set it, or give a default: ${{env:{name}:-default}}")
                return text
            parts.append(value)

    def _no_interpolation(self, text: str, path: Path) -> None:
        if "${env:" in text and not self._was_resolved:
            self.report(
                path,
                "${env:…} is read in store, image, code and backends' args only; give the step the variable through `env`, "
                "or `secrets` if it is secret",
            )

    def _local(self, text: str) -> str:
        """Return a path as an absolute one without dots."""
        if text == "~" or text.startswith("~/"):
            text = self._environ.get("HOME", "~") + text[1:]
        return os.path.normpath(os.path.join(self._base, text))

    def _location(self, text: str, path: Path, schemes: tuple[str, ...] | None) -> str:
        """Return a path made absolute, or a URL as it is.

        Args:
            text: a path or a URL.
            path: where it stands, for messages.
            schemes: the kinds of URL that can be used here; None for all.
        """
        scheme, colon, rest = text.partition("://")
        if not colon:
            return self._local(text)
        scheme = scheme.lower()
        if scheme == "file":
            if not rest.startswith("/"):
                self.report(path, f"a file URL has three slashes: write file:///{rest}")
            from urllib.parse import unquote

            return os.path.normpath(unquote(rest))
        if schemes is not None and scheme not in schemes:
            kinds = ", ".join(f"{one}://" for one in ("s3", "gs", "az", "https") if one in schemes)
            self.report(path, f"{scheme[:20]}:// can't be used here; write a path, or {kinds}")
        if ":" in rest.partition("/")[0].rpartition("@")[0]:
            self.report(path, "the URL has a password in it, and a config is stored and printed; remove it")
        return text

    def _store(self, text: str) -> str:
        text = self._interpolate(text, ("store",))
        if not text:
            self.report(("store",), "it is empty; write a directory such as ./runs, or a URL such as s3://bucket/prefix")
        return self._location(text, ("store",), BUCKET_SCHEMES)

    def _code(self, text: str | None) -> str | None:
        if text is None:
            return None
        if self._was_resolved and text.startswith("sha256:"):
            return text  # it was shipped, and lies in the store
        text = self._interpolate(text, ("code",))
        if "://" in text and not text.startswith("file:"):
            if not self._was_resolved:
                self.report(("code",), "code is a directory on this machine; write a path, or null if it is baked into the image")
            return text
        return self._location(text, ("code",), None)

    def _image(self, text: str, path: Path) -> str:
        text = self._interpolate(text, path)
        if not text or not text.isprintable() or " " in text or text.startswith("-"):
            self.report(path, f"{text[:80]!r} is not an image; write such as zen-runner:cpu")
        return text

    # -- backends ------------------------------------------------------------------------------------------------------

    def _backend(self, value: str | Block | None, roles: tuple[str, ...], path: Path) -> dict[str, Any] | None:
        """Return the block that a ``backend`` key means."""
        if value is None:
            return None
        if isinstance(value, Block):
            if value.type not in roles:
                self.report((*path, "type"), f"{value.type} is not right here; write {' or '.join(roles)}")
            return self._block(value, path)
        block = self._blocks.get(value)
        if block is not None and block["type"] in roles:
            return block
        for role in roles:
            if self._is_registered(role, value):
                return {"type": role, "source": value, "args": {}}
        if self._is_broken("backends", value) or (block is None and value in self._blocks):
            return None  # that block has a problem of its own
        role = " or ".join(roles)
        if block is not None:
            self.report(path, f"the backend {value!r} is of type {block['type']}; here goes one of type {role}")
            return None
        here = [name for name, one in self._blocks.items() if one is None or one["type"] in roles]
        known = sorted({*here, *(name for one in roles for name in self._names(one))})
        self.report(path, f"no {role} backend {value[:80]!r}{self._hint(value, known, 'there are')}")
        return None

    def _block(self, block: Block, path: Path) -> dict[str, Any] | None:
        args = self._interpolated(block.args, (*path, "args"))
        done = {"type": block.type, "source": block.source, "args": args}
        if ":" in block.source:
            if not is_function(block.source):
                self.report((*path, "source"), f"{block.source[:80]!r} is neither a short name nor package.module:Class")
            return done
        if not self._is_registered(block.type, block.source):
            others = [role for role in registry.ROLES if self._is_registered(role, block.source)]
            hint = self._hint(block.source, self._names(block.type), "there are")
            if others:
                hint = f"; the one of that name is of type {others[0]}"
            self.report((*path, "source"), f"no {block.type} backend {block.source[:80]!r}{hint}")
            return None
        if args and f"{block.type}.{block.source}" in registry.BUILTIN:
            try:
                registry.load(done)
            except ConfigError as error:
                for problem in error.problems:  # only what the config can mend; whether the backend works here is another matter
                    if problem.path.startswith("args"):
                        self.report((*path, *problem.path.split(".")), problem.message)
        return done

    def _interpolated(self, value: Any, path: Path) -> Any:
        if isinstance(value, str):
            return self._interpolate(value, path)
        if isinstance(value, dict):
            return {key: self._interpolated(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self._interpolated(item, (*path, index)) for index, item in enumerate(value)]
        return value

    # -- variables -----------------------------------------------------------------------------------------------------

    def _variable(self, path: Path, name: str) -> None:
        if not is_identifier(name):
            write = slug(name).upper().replace("-", "_")
            self.report(path, f"{name[:80]!r} is not a variable's name; use letters, digits and _, such as {write}")
        elif name.startswith("ZEN_"):
            self.report(path, "names that begin with ZEN_ are zen-runner's own; choose another")

    def _secret(self, secret: Secret, name: str) -> dict[str, str]:
        path: Path = ("secrets", name)
        self._variable(path, name)
        kinds = [kind for kind in _SECRET_FORMS if getattr(secret, kind) is not UNSET]
        if len(kinds) != 1:
            if not self._is_broken(*path):
                self.report(path, f"a secret has exactly one of {', '.join(_SECRET_FORMS)}; write such as {{env: {name}}}")
            return {}
        kind = kinds[0]
        value = getattr(secret, kind)
        fits, what = _SECRET_FORMS[kind]
        if not fits(value):
            self.report((*path, kind), f"this is not a reference; write {what}, never the secret itself")
        return {kind: self._local(value) if kind == "file" else value}

    def _env(self, env: Mapping[str, Any], path: Path, step: Step | None) -> dict[str, str]:
        done = {}
        for name, value in env.items():
            here = (*path, "env", name)
            self._variable(here, name)
            if looks_secret(name):
                self.report(here, f"the name looks secret; write it under `secrets` at the top: {name}: {{env: {name}}}")
            done[name] = text = placeholders.render(value)
            self._no_interpolation(text, here)
            if step is None and placeholders.names(text):
                self.report(here, "placeholders belong to a step; move this variable to the step's own env")
        return done

    # -- limits --------------------------------------------------------------------------------------------------------

    def _read(self, reader: Callable[[Any], Any], value: Any, path: Path, fallback: Any) -> Any:
        """Return what ``reader`` makes of a value, or report why it can't and return the fallback."""
        if value is UNSET or value is None:
            return fallback if value is UNSET else None
        try:
            return reader(value)
        except ValueError as error:
            self.report(path, str(error))
            return fallback

    def _limits(self, part: Config | Step, path: Path, top: dict[str, Any] | None) -> dict[str, Any]:
        """Return the settings that a step takes from the top where it has none of its own."""
        retry = (
            top["retry"] if top else {"limit": 2, "on": list(outcome.RETRIED_BY_DEFAULT), "backoff": 1.0, "memory_factor": 1.0}
        )
        resources = top["resources"] if top else _NO_RESOURCES
        return {
            "retry": self._retry(part.retry, (*path, "retry"), retry),
            "resources": self._resources(part.resources, (*path, "resources"), resources),
            "timeout": self._read(_timeout, part.timeout, (*path, "timeout"), top["timeout"] if top else None),
            "grace_period": self._read(
                quantities.duration, part.grace_period, (*path, "grace_period"), top["grace_period"] if top else 30.0
            ),
            "cache": part.cache if part.cache is not UNSET else top["cache"] if top else False,
        }

    def _retry(self, retry: Any, path: Path, top: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(retry, Retry):
            return top
        on = top["on"]
        if retry.on is not UNSET:
            for index, name in enumerate(retry.on):
                if name not in outcome.RETRIABLE:
                    self._not_retried(name, (*path, "on", index))
            on = [name for name in outcome.RETRIABLE if name in retry.on]
        return {
            "limit": self._read(_between("limit", 0, 100), retry.limit, (*path, "limit"), top["limit"]),
            "on": on,
            "backoff": self._read(quantities.duration, retry.backoff, (*path, "backoff"), top["backoff"]),
            "memory_factor": float(
                self._read(_between("memory_factor", 1, 16), retry.memory_factor, (*path, "memory_factor"), top["memory_factor"])
            ),
        }

    def _not_retried(self, name: str, path: Path) -> None:
        known = ", ".join(outcome.RETRIABLE)
        if any(row.name == name for row in outcome.TABLE):
            why = "there is nothing to retry" if name == outcome.SUCCESS else "it would end the same way again"
            self.report(path, f"class {name!r} is never retried, {why}; the classes are {known}")
        else:
            self.report(path, f"no class {name[:80]!r}{self._hint(name, outcome.RETRIABLE, 'the classes are')}")

    def _resources(self, resources: Any, path: Path, top: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(resources, Resources):
            return top
        done = {
            "cpu": self._read(quantities.cpu, resources.cpu, (*path, "cpu"), top["cpu"]),
            "memory": self._read(quantities.memory, resources.memory, (*path, "memory"), top["memory"]),
            "gpu": self._read(_between("gpu", 0, 1024), resources.gpu, (*path, "gpu"), top["gpu"]),
            "gpu_memory": self._read(quantities.memory, resources.gpu_memory, (*path, "gpu_memory"), top["gpu_memory"]),
            "cuda": self._read(quantities.cuda, resources.cuda, (*path, "cuda"), top["cuda"]),
        }
        # At the top it is a default for the steps that ask for GPUs; in a resolved config it has come from there.
        if path[0] == "steps" and not done["gpu"] and not self._was_resolved and not self._is_broken(*path, "gpu"):
            for key in ("gpu_memory", "cuda"):
                if getattr(resources, key) is not UNSET and done[key] is not None:
                    self.report((*path, key), "this says what a GPU must have, and the step asks for none; add gpu: 1")
        return done

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _step(self, name: str, step: Step, top: dict[str, Any]) -> dict[str, Any]:
        path: Path = ("steps", name)
        self._check_name(path, step.foreach["of"] if isinstance(step.foreach, dict) else name, "a step's name")
        if step.parents is not UNSET and not self._was_resolved:
            self.report((*path, "parents"), "this key is written by `zen-runner resolve` only; write `after`")
        if name in (*_HEADS, ITEM):
            self.report(path, f"a step can't be called {name}, which placeholders begin with; choose another name")
        kind = self._kind(step, path)
        is_url = kind in ("beam", "spark")
        if is_url and step.as_ == "path":
            self.report((*path, "as"), f"{kind} steps read and write the store themselves, so they get URLs; remove `as`")
        how = step.as_ if step.as_ is not UNSET else "url" if is_url else "path"
        parents: set[str] = set()
        done: dict[str, Any] = {} if kind is None else {kind: getattr(step, kind)}
        done["args"] = step.args
        done["inputs"] = {}
        for key, value in step.inputs.items():
            source = self._input(value, name, (*path, "inputs", key), how)
            done["inputs"][key] = source
            parents.update(part["step"] for part in source.get("gather", (source,)) if "step" in part)
        done["outputs"] = step.outputs
        self._check_variables(step, kind, path)
        done["after"] = list(dict.fromkeys(step.after))
        for index, other in enumerate(step.after):
            if self._known_step(other, name, (*path, "after", index)):
                parents.add(other)
        for at, text in self._texts(step, path):
            self._no_interpolation(text, at)
            for reference in placeholders.names(text):
                parent = self._reference(reference, name, step, at)
                if parent is not None:
                    parents.update(self._groups.get(parent, (parent,)))
        done["parents"] = sorted(parents)
        done["as"] = how
        done["backend"] = self._backend(step.backend, ("processing", "training"), (*path, "backend"))
        engine = self._engine(kind, done["backend"], (*path, "backend"))
        done["env"] = self._env(step.env, path, step)
        done.update(self._limits(step, path, top))
        variant = engine or ("cuda" if done["resources"]["gpu"] else "cpu")
        done["image"] = top["image"] or f"{_IMAGE}:{variant}"
        if step.image is not UNSET:
            done["image"] = self._image(step.image, (*path, "image"))
        return done

    def _engine(self, kind: str | None, backend: dict[str, Any] | None, path: Path) -> str | None:
        """Return the engine that a step runs on, ``beam``, ``spark`` or None, and check that its backend is for such a step."""
        own = kind if kind in ("beam", "spark") else None
        if backend is None:
            return own
        if backend["type"] == "training":
            if own:
                self.report(path, f"a training backend runs call and run steps, and this is a {own} step; write a processing one")
            return own
        if f"processing.{backend['source']}" not in registry.BUILTIN:
            return own  # whose class is imported only when the step runs
        cls: Any = registry.class_of("processing", backend["source"])
        if kind is not None and kind not in (cls.FRAMEWORK, "run"):
            what = f"the backend {backend['source']!r} runs {cls.FRAMEWORK} and run steps, and this is a {kind} step"
            self.report(path, f"{what}; {'remove it' if kind == 'call' else 'write one for ' + kind}")
        return str(cls.FRAMEWORK)

    def _kind(self, step: Step, path: Path) -> str | None:
        kinds = [kind for kind in KINDS if getattr(step, kind) is not UNSET]
        if not kinds:
            if not any(self._is_broken(*path, kind) for kind in KINDS):
                self.report(
                    path, "nothing says what the step does; add one of call, run, beam and spark, such as call: module:function"
                )
            return None
        if len(kinds) > 1:
            self.report(
                (*path, kinds[1]), f"a step has exactly one of {', '.join(KINDS)}, and this has {' and '.join(kinds)}; keep one"
            )
        kind = kinds[0]
        value = getattr(step, kind)
        if kind == "run":
            if not value and not self._is_broken(*path, "run"):
                self.report((*path, "run"), "it is empty; write a program and its arguments, such as [python, train.py]")
            elif value and not value[0]:
                self.report((*path, "run", 0), "the program's name is empty; write such as python")
        elif not is_function(value):
            hint = ""
            module, dot, function = value.rpartition(".")
            if dot and ":" not in value and is_function(f"{module}:{function}"):
                hint = f" (did you mean {module + ':' + function!r}?)"
            elif value.endswith(".py"):
                hint = f"; to run a script: run: [python, {value}]"
            self.report((*path, kind), f"{value[:80]!r} is not package.module:function{hint}")
        return kind

    def _check_variables(self, step: Step, kind: str | None, path: Path) -> None:
        """Check the names that become variables and keyword arguments."""
        used: dict[str, str] = {}  # of keyword arguments
        for what, key, names in (("input", "inputs", list(step.inputs)), ("output", "outputs", step.outputs)):
            seen: dict[str, str] = {}  # by the variable's name
            for index, name in enumerate(names):
                here = (*path, key, name if key == "inputs" else index)
                if not is_identifier(name):
                    write = slug(name).replace("-", "_")
                    write = write if is_identifier(write) else f"{what}_{write}"
                    self.report(here, f"{name[:80]!r} is not a name for an {what}; use letters, digits and _, such as {write}")
                other = seen.get(name.upper())
                if other == name:
                    self.report(here, f"the {what} {name!r} is there twice; remove one of the two")
                elif other is not None:
                    both = f"ZEN_{what.upper()}_{name.upper()}"
                    self.report(
                        here, f"{name!r} and {other!r} differ only in case, and both would be ${both}; rename one of the two"
                    )
                seen[name.upper()] = name
                if kind == "call":  # beam and spark steps get two mappings
                    self._keyword(name, what, used, here)
        if kind not in (None, "run"):
            for name in step.args:
                self._keyword(name, "arg", used, (*path, "args", name))

    def _keyword(self, name: str, what: str, used: dict[str, str], path: Path) -> None:
        if what == "arg" and not is_identifier(name):
            self.report(path, f"{name[:80]!r} can't be a function's argument; use letters, digits and _")
        elif iskeyword(name):
            self.report(path, f"{name!r} is a word of Python's own, so no function can take it; write {name}_")
        other = used.setdefault(name, what)
        if other != what:
            self.report(path, f"{name!r} is also an {other}, and the function gets both under one name; rename one of the two")

    def _known_step(self, other: str, name: str, path: Path) -> bool:
        """Tell whether a step can be waited for; report it if not."""
        if other == name:
            self.report(path, "a step can't wait for itself; remove it")
            return False
        if other in self._config.steps:
            return True
        if not self._is_broken("steps", other):
            hint = self._hint(other, self._config.steps, "the other steps are", name)
            self.report(path, f"no step {other[:80]!r}{hint}")
        return False

    def _input(self, value: str | Input, name: str, path: Path, how: str) -> dict[str, Any]:
        """Return ``{"step", "output"}``, ``{"url"}`` or ``{"gather"}``; an empty mapping after a problem."""
        if isinstance(value, str):
            if "/" in value or _item_references(value):
                return self._external(value, name, path, how)
            return self._from(value, name, path)
        given = [key for key in ("from_", "url", "step", "output", "gather") if getattr(value, key) is not UNSET]
        if given == ["from_"]:
            return self._from(str(value.from_), name, (*path, "from"))
        if given == ["url"]:
            return self._external(str(value.url), name, (*path, "url"), how)
        if isinstance(value.gather, list) and given == ["gather"] and self._was_resolved:
            parts = [(part.step, part.output) for part in value.gather]
            return {"gather": [self._output(*part, name, path, ".".join(part)) for part in parts]}
        if given == ["step", "output"]:
            return self._output(str(value.step), str(value.output), name, path, f"{value.step}.{value.output}")
        if not self._is_broken(*path):
            self.report(path, "an input is one of {from: STEP.OUTPUT} and {url: PATH-OR-URL}")
        return {}

    def _external(self, text: str, name: str, path: Path, how: str) -> dict[str, str]:
        self._no_interpolation(text, path)
        references = _item_references(text)
        for reference in references:
            self._reference(reference, name, self._config.steps[name], path)
        if references and references == placeholders.names(text):
            return {"url": text}  # each item makes another of it
        return {"url": self._fixed(text, path, how)}

    def _fixed(self, text: str, path: Path, how: str) -> str:
        """Return an external input made absolute."""
        if placeholders.names(text):
            self.report(path, "placeholders are not read here; an input is a fixed path or URL, or another step's output")
        if not text:
            self.report(path, "it is empty; write a path or a URL")
        return self._location(text, path, None if how == "url" else (*BUCKET_SCHEMES, *_WEB))

    def _from(self, text: str, name: str, path: Path) -> dict[str, str]:
        other, dot, output = text.partition(".")
        if not dot:
            hint = f"for a file write ./{text}"
            if other in self._config.steps and other != name:
                outputs = self._config.steps[other].outputs
                hint = f"write {other}.{outputs[0]}" if outputs else f"step {other!r} has no outputs yet"
            self.report(path, f"{text[:80]!r} is not STEP.OUTPUT; {hint}")
            return {}
        return self._output(other, output, name, path, text)

    def _output(self, other: str, output: str, name: str, path: Path, text: str) -> dict[str, str]:
        steps = self._config.steps
        if other not in steps and other != name and not self._is_broken("steps", other):
            hint = self.did_you_mean(other, steps, name) or f"; for a file write ./{text}"
            self.report(path, f"no step {other[:80]!r}{hint}")
            return {}
        if not self._known_step(other, name, path):
            return {}
        if output not in self._outputs[other] and not self._is_broken("steps", other, "outputs"):
            outputs = steps[other].outputs
            hint = self._hint(output, outputs, "it has") if outputs else f"; add outputs: [{output}] to it"
            self.report(path, f"step {other!r} has no output {output[:80]!r}{hint}")
        return {"step": other, "output": output}

    # -- placeholders --------------------------------------------------------------------------------------------------

    def _texts(self, step: Step, path: Path) -> Iterator[tuple[Path, str]]:
        """Yield the strings of a step that may have placeholders."""
        if step.run is not UNSET:
            yield from _strings(step.run, (*path, "run"))
        yield from _strings(step.args, (*path, "args"))
        for name, value in step.env.items():
            if isinstance(value, str):
                yield (*path, "env", name), value

    def _reference(self, reference: str, name: str, step: Step, path: Path) -> str | None:
        """Check one placeholder and return the step that it makes a parent, if any."""
        head, *rest = reference.split(".")
        shown = f"{{{reference[:80]}}}"
        if head == ITEM:
            self._item(rest, name, path, shown)
        elif head == "args":
            self._arg(rest, step, path, shown)
        elif head in _HEADS:
            known: Collection[str] = step.inputs if head == "inputs" else self._outputs[name]
            if rest[0] not in known:
                if not self._is_broken("steps", name, head):
                    hint = self._hint(rest[0], known, "this step has")
                    self.report(path, f"{shown}: no {head.removesuffix('s')} {rest[0]!r}{hint}")
            elif len(rest) > 1:
                self.report(path, f"{shown}: an {head.removesuffix('s')} has no parts; write {{{head}.{rest[0]}}}")
        elif head == name and rest[0] == "values":
            self.report(path, f"{shown}: a step's own values are there only after it; use another step's")
        elif head in self._config.steps or head in self._groups:
            if rest[0] == "values":
                return head
            self.report(
                path, f"{shown}: write {{{head}.values.NAME}} for what step {head!r} returned, or name its output in inputs"
            )
        elif not self._is_broken("steps", head):
            what, hint = f"no step {head!r}", ""
            if rest[0] != "values":
                known = (*_HEADS, ITEM) if name in self._items else _HEADS
                what, hint = "this refers to nothing", self.did_you_mean(head, known)
            hint = hint or self.did_you_mean(head, self._config.steps, name)
            self.report(path, f"{shown}: {what}{hint}; for the plain text write {{{shown}}}")
        return None

    def _arg(self, rest: list[str], step: Step, path: Path, shown: str) -> None:
        if path[2] == "args":
            self.report(path, f"{shown}: args can't be made of args; write the value")
            return
        name = str(path[1])
        if (listed := self._listed.get(name)) and tuple(rest[: len(listed)]) == listed:
            self.report(path, f"{shown}: foreach goes through this list, and the step gets one item of it; write {{{ITEM}}}")
            return
        found: Any = step.args
        for index, part in enumerate(rest):
            if index and isinstance(found, str) and (references := placeholders.names(found)):
                if found == f"{{{references[0]}}}" and _item_references(found) and name in self._items:
                    self._item([*references[0].split(".")[1:], *rest[index:]], name, path, shown)
                    return
                if references != _item_references(found):
                    return  # what it holds is known only when the step runs
            if isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            elif isinstance(found, dict) and part in found:
                found = found[part]
            else:
                if not self._is_broken("steps", name, "args"):
                    hint = self._hint(part, found if isinstance(found, dict) else (), "there are")
                    self.report(path, f"{shown}: no arg {'.'.join(rest[: index + 1])!r}{hint}")
                return

    # -- foreach -------------------------------------------------------------------------------------------------------

    def _read_foreach(self) -> None:
        """Find the items of every foreach step, and in a resolved config the members of what was one."""
        sizes: dict[str, int] = {}
        for name, step in self._config.steps.items():
            path: Path = ("steps", name, "foreach")
            if isinstance(step.foreach, dict) and self._was_resolved:
                if not _is_member(name, step.foreach):
                    self._break(path, "this is not what `zen-runner resolve` writes; resolve the config again")
                    self._config.steps[name] = msgspec.structs.replace(step, foreach=None)
                    continue
                sizes[step.foreach["of"]] = step.foreach["size"]
            elif step.foreach is not None and not self._is_broken(*path):
                self._config.steps[name] = self._with_items(name, step)
        for of, size in sizes.items():
            names = [f"{of}.{index}" for index in range(size)]
            found = [self._config.steps.get(member) for member in names]
            if of in self._config.steps or any(
                step is None or not isinstance(step.foreach, dict) or step.foreach.get("size") != size for step in found
            ):
                self.report(("steps",), f"of the foreach step {of!r} some members are missing; resolve the config again")
            self._groups[of] = names

    def _with_items(self, name: str, step: Step) -> Step:
        """Note the items of a foreach step, and return the step without the arg that they are from."""
        from backends.config.explain import flow, shown

        path: Path = ("steps", name, "foreach")
        items, args, where = step.foreach, step.args, path
        if isinstance(items, str) and (way := _args_reference(items)):
            before = len(self.found)
            self._arg(way, step, path, items)
            if len(self.found) > before or self._is_broken("steps", name, "args"):
                self._take_out(path)
                return msgspec.structs.replace(step, foreach=None)
            items = self._at_way(args, way)
            where = ("steps", name, "args", *way)
            if isinstance(items, list):
                self._listed[name] = tuple(way)
                args = _without(args, way)
            else:
                self._break(path, f"{step.foreach} is {shown(items)}; foreach takes a list")
        elif not isinstance(items, list):
            fix = f"; write {flow([items])}" if isinstance(items, (str, int, float)) else ""
            self._break(path, f"expected a list, or {{args.NAME}} that is one, got {shown(items)}{fix}")
        if isinstance(items, list):
            self._items[name] = self._checked_items(items, where)
        return msgspec.structs.replace(step, args=args, foreach=None)

    def _at_way(self, found: Any, way: list[str]) -> Any:
        for part in way:
            found = found[int(part)] if isinstance(found, list) else found[part] if isinstance(found, dict) else None
        return found

    def _checked_items(self, items: list[Any], path: Path) -> list[Any]:
        """Return the items with plain text for their escaped placeholders."""
        if not items:
            self._break(path, "it is empty, so the step would do nothing; give it an item, or remove the step")
        elif len(items) > MOST_ITEMS:
            self._break(path, f"{len(items):,} items are more than the {MOST_ITEMS:,} that there may be; let each do more")
            return []
        for at, text in _strings(items, path):
            self._no_interpolation(text, at)
            if placeholders.names(text):
                shown = f"{{{placeholders.names(text)[0][:80]}}}"
                self.report(at, f"{shown}: items are plain values; write it beside {{{ITEM}}}, or for the plain text {{{shown}}}")
        for index, item in enumerate(items):
            if (size := len(wire.dumps(item))) > _MOST_BYTES:
                self.report(
                    (*path, index), f"{size:,} bytes as JSON are more than the {_MOST_BYTES:,} of $ZEN_ITEM; put it into a file"
                )
        return [placeholders.substitute(item, lambda way: "") for item in items]

    def _item(self, rest: list[str], name: str, path: Path, shown: str) -> None:
        """Check a placeholder that begins with ``item``: every item has to have what it names."""
        if name not in self._items:
            if not self._is_broken("steps", name, "foreach"):
                self.report(
                    path, f"{shown}: the step has no foreach, whose items this stands for; for the plain text write {{{shown}}}"
                )
            return
        for index, item in enumerate(self._items[name]):
            found = item
            for part in rest:
                if isinstance(found, dict) and part in found:
                    found = found[part]
                elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                    found = found[int(part)]
                else:
                    from backends.config import explain

                    hint = f"; it is {explain.shown(found)}"
                    if isinstance(found, dict):
                        hint = self._hint(part, found, "it has")
                    self.report(path, f"{shown}: item {index} has no {part!r}{hint}")
                    return

    def _expanded(self, steps: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return the steps with each foreach step's members in its place."""
        done: dict[str, dict[str, Any]] = {}
        edges = 0
        for name, step in steps.items():
            times = len(self._items.get(name, (None,)))
            edges += times * sum(len(self._items[parent]) for parent in step["parents"] if parent in self._items)
            if edges > _MOST_EDGES:
                self.report(
                    ("steps", name),
                    f"with this one, steps wait {edges:,} times for members of foreach steps, and {_MOST_EDGES:,} is the most; "
                    "put one step between that waits for all members, and let the others wait for that",
                )
                break
            step = self._gathering(step)
            if name not in self._items:
                done[name] = {**step, "foreach": self._config.steps[name].foreach}
                continue
            before = len(self.found)
            for index, item in enumerate(self._items[name]):
                done[f"{name}.{index}"] = {
                    **step,
                    **self._filled(step, item, ("steps", name)),
                    "foreach": {"of": name, "index": index, "size": times, "item": item},
                }
                if len(self.found) > before:
                    break  # the other items' would read alike
        return done

    def _gathering(self, step: dict[str, Any]) -> dict[str, Any]:
        """Return a step that waits for the members of foreach steps where it named the steps themselves."""
        if not any(parent in self._items for parent in step["parents"]):
            return step

        def flat(names: list[str]) -> list[str]:
            return [member for name in names for member in self._members(name)]

        inputs = {}
        for key, source in step["inputs"].items():
            if source.get("step") in self._items:
                output = source["output"]
                source = {"gather": [{"step": member, "output": output} for member in self._members(source["step"])]}
            inputs[key] = source
        return {**step, "inputs": inputs, "after": flat(step["after"]), "parents": sorted(flat(step["parents"]))}

    def _members(self, name: str) -> list[str]:
        return [f"{name}.{index}" for index in range(len(self._items[name]))] if name in self._items else [name]

    def _filled(self, step: dict[str, Any], item: Any, path: Path) -> dict[str, Any]:
        """Return the parts of a foreach step that hold the item, for one item."""

        def look_up(reference: tuple[str, ...]) -> Any:
            return self._at_way(item, list(reference[1:]))

        try:
            filled: dict[str, Any] = {"args": placeholders.fill(step["args"], ITEM, look_up)}
            if "run" in step:
                filled["run"] = [placeholders.fill_text(text, ITEM, look_up) for text in step["run"]]
            filled["env"] = {name: placeholders.fill_text(text, ITEM, look_up) for name, text in step["env"].items()}
        except ValueError as error:
            self.report(path, str(error))
            return {}
        filled["inputs"] = inputs = dict(step["inputs"])
        for name, source in inputs.items():
            if _item_references(source.get("url", "")):
                text = placeholders.substitute_text(source["url"], look_up)
                inputs[name] = {"url": self._fixed(text, (*path, "inputs", name), step["as"])}
        return filled


def _item_references(text: str) -> list[str]:
    return [reference for reference in placeholders.names(text) if reference.partition(".")[0] == ITEM]


def _args_reference(text: str) -> list[str]:
    """Return the way in the args that a text names if it is one placeholder of such, else an empty list."""
    head, *way = text[1:-1].split(".")
    return way if head == "args" and placeholders.names(text) == [text[1:-1]] else []


def _without(data: Any, way: Sequence[str]) -> Any:
    """Return plain data without what is at the end of a way; what is shared is copied."""
    key: Any = int(way[0]) if isinstance(data, list) else way[0]
    left = data.copy()
    if len(way) == 1:
        del left[key]
    else:
        left[key] = _without(data[key], way[1:])
    return left


def _is_member(name: str, foreach: dict[str, Any]) -> bool:
    """Tell whether this is a resolved step's ``foreach``, and the step is called accordingly."""
    if foreach.keys() != _MEMBER.keys() or not all(isinstance(foreach[key], kind) for key, kind in _MEMBER.items()):
        return False
    return name == f"{foreach['of']}.{foreach['index']}" and 0 <= foreach["index"] < foreach["size"] <= MOST_ITEMS


_SECRET_FORMS: dict[str, tuple[Callable[[str], bool], str]] = {
    "env": (is_identifier, "the name of an environment variable, such as API_KEY"),
    "file": (bool, "the path of a file, such as /run/secrets/api-key"),
    "kubernetes": (lambda text: all(text.split("/")) and text.count("/") == 1, "SECRET/KEY, such as my-secret/api-key"),
    "aws": (lambda text: text.startswith("arn:") and text.count(":") >= 5, "the ARN of a secret or parameter"),
    "gcp": (
        lambda text: text.startswith("projects/") and "/secrets/" in text,
        "a resource such as projects/PROJECT/secrets/NAME/versions/latest",
    ),
}


def _timeout(value: Any) -> float:
    seconds = quantities.duration(value)
    if seconds == 0:
        raise ValueError("a timeout of 0 would end every step at once; write null for no timeout")
    return seconds


def _between(name: str, least: int, most: int) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not least <= value <= most:
            raise ValueError(f"{value} is out of range; {name} is from {least} to {most}")
        return value

    return read


def _cycles(parents: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Return circles in a graph, each from the step that comes first in it, along what each step needs."""
    order = {name: index for index, name in enumerate(parents)}
    state: dict[str, int] = {}  # 1: on the way, 2: done
    found: list[list[str]] = []
    for root in parents:
        if root in state:
            continue
        way, below = [root], [iter(parents[root])]
        state[root] = 1
        while way:
            for parent in below[-1]:
                if state.get(parent) == 1 and len(found) < _MOST_CYCLES:
                    cycle = way[way.index(parent) :]
                    first = min(range(len(cycle)), key=lambda index: order[cycle[index]])
                    found.append(cycle[first:] + cycle[:first])
                elif parent not in state and parent in parents:
                    state[parent] = 1
                    way.append(parent)
                    below.append(iter(parents[parent]))
                    break
            else:
                state[way.pop()] = 2
                below.pop()
    return found
