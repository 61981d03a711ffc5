"""Names that become environment variables and keyword arguments: env, secrets, inputs, outputs and args."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from keyword import iskeyword

from msgspec import UNSET

from backends.config import placeholders
from backends.config.findings import Findings
from backends.config.naming import is_identifier, looks_secret, slug
from backends.config.paths import Path
from backends.config.places import Origin, local, refuse_interpolation
from backends.config.schema import Secret, Step

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


def read_secret(name: str, secret: Secret, origin: Origin, findings: Findings) -> dict[str, str]:
    """Return the reference to one secret, such as ``{"env": "API_KEY"}``; an empty mapping after a problem."""
    path: Path = ("secrets", name)
    _check_variable(name, path, findings)
    kinds = [kind for kind in _SECRET_FORMS if getattr(secret, kind) is not UNSET]
    if len(kinds) != 1:
        if not findings.is_dropped(*path):
            forms = ", ".join(_SECRET_FORMS)
            findings.report(path, f"a secret has exactly one of {forms}; write such as {{env: {name}}}")
        return {}
    kind = kinds[0]
    value = getattr(secret, kind)
    fits, form = _SECRET_FORMS[kind]
    if not fits(value):
        findings.report((*path, kind), f"this is not a reference; write {form}, never the secret itself")
    return {kind: local(value, origin) if kind == "file" else value}


def read_env(
    env: Mapping[str, str | int | float], path: Path, origin: Origin, findings: Findings, *, of_step: bool
) -> dict[str, str]:
    """Return the variables of a step, or of the whole config, as text."""
    texts = {}
    for name, value in env.items():
        own_path = (*path, name)
        _check_variable(name, own_path, findings)
        if looks_secret(name):
            message = f"the name looks secret; write it under `secrets` at the top: {name}: {{env: {name}}}"
            findings.report(own_path, message)
        texts[name] = text = placeholders.render(value)
        refuse_interpolation(text, own_path, origin, findings)
        if not of_step and placeholders.names(text):
            findings.report(own_path, "placeholders belong to a step; move this variable to the step's own env")
    return texts


def _check_variable(name: str, path: Path, findings: Findings) -> None:
    if not is_identifier(name):
        example = slug(name).upper().replace("-", "_")
        findings.report(path, f"{name[:80]!r} is not a variable's name; use letters, digits and _, such as {example}")
    elif name.startswith("ZEN_"):
        findings.report(path, "names that begin with ZEN_ are zen-runner's own; choose another")


def check_step(step: Step, kind: str | None, path: Path, findings: Findings) -> None:
    """Report names of a step's inputs, outputs and args that can't be variables and keyword arguments."""
    keywords: dict[str, str] = {}  # what each is the name of
    for noun, key, names in (("input", "inputs", list(step.inputs)), ("output", "outputs", step.outputs)):
        by_variable: dict[str, str] = {}
        for index, name in enumerate(names):
            own_path = (*path, key, name if key == "inputs" else index)
            _check_port(name, noun, by_variable, own_path, findings)
            if kind == "call":  # beam and spark steps get two mappings
                _check_keyword(name, noun, keywords, own_path, findings)
    if kind not in (None, "run"):
        for name in step.args:
            _check_keyword(name, "arg", keywords, (*path, "args", name), findings)


def _check_port(name: str, noun: str, by_variable: dict[str, str], path: Path, findings: Findings) -> None:
    if not is_identifier(name):
        example = slug(name).replace("-", "_")
        example = example if is_identifier(example) else f"{noun}_{example}"
        findings.report(path, f"{name[:80]!r} is not a name for an {noun}; use letters, digits and _, such as {example}")
    other = by_variable.get(name.upper())
    if other == name:
        findings.report(path, f"the {noun} {name!r} is there twice; remove one of the two")
    elif other is not None:
        both = f"ZEN_{noun.upper()}_{name.upper()}"
        findings.report(path, f"{name!r} and {other!r} differ only in case, and both would be ${both}; rename one of the two")
    by_variable[name.upper()] = name


def _check_keyword(name: str, noun: str, keywords: dict[str, str], path: Path, findings: Findings) -> None:
    if noun == "arg" and not is_identifier(name):
        findings.report(path, f"{name[:80]!r} can't be a function's argument; use letters, digits and _")
    elif iskeyword(name):
        findings.report(path, f"{name!r} is a word of Python's own, so no function can take it; write {name}_")
    other = keywords.setdefault(name, noun)
    if other != noun:
        findings.report(path, f"{name!r} is also an {other}, and the function gets both under one name; rename one of the two")
