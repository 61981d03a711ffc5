"""Where things lie: paths, URLs, images, the store and the code, and ``${env:NAME}`` in them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from backends.config.findings import Findings
from backends.config.naming import is_identifier, looks_secret
from backends.config.paths import Path
from backends.store import urls
from backends.store.base import BUCKET_SCHEMES


class Origin(NamedTuple):
    """Where a config comes from.

    Attributes:
        base: the absolute directory that relative paths start from.
        environ: where ``${env:NAME}`` looks.
        is_resolved: whether it was resolved before, so that nothing in it is read a second time.
    """

    base: str
    environ: Mapping[str, str]
    is_resolved: bool


def interpolate(text: str, path: Path, origin: Origin, findings: Findings) -> str:
    """Return the text with each ``${env:NAME}`` and ``${env:NAME:-default}`` replaced."""
    if "${env:" not in text or origin.is_resolved:
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
            findings.report(path, "'${env:' is followed by a variable's name and '}'; write ${env:NAME} or ${env:NAME:-default}")
            return text
        if looks_secret(name):
            findings.report(path, f"${{env:{name}}} looks secret, and a config is stored and printed; use `secrets`")
            return text
        value = origin.environ.get(name)
        if has_default and not value:
            value = default
        if value is None:
            findings.report(path, f"${name} is not set; set it, or give a default: ${{env:{name}:-default}}")
            return text
        parts.append(findings.interpolate(value, path))


def interpolate_all(value: Any, path: Path, origin: Origin, findings: Findings) -> Any:
    """Return plain data with :func:`interpolate` done to every string in it but the keys."""
    if isinstance(value, str):
        return interpolate(value, path, origin, findings)
    if isinstance(value, dict):
        return {key: interpolate_all(item, (*path, key), origin, findings) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate_all(item, (*path, index), origin, findings) for index, item in enumerate(value)]
    return value


def refuse_interpolation(text: str, path: Path, origin: Origin, findings: Findings) -> None:
    """Report ``${env:`` where it is not read."""
    if "${env:" in text and not origin.is_resolved:
        findings.report(
            path,
            "${env:…} is read in store, image, code and backends' args only; give the step the variable through `env`, "
            "or `secrets` if it is secret",
        )


def local(text: str, origin: Origin) -> str:
    """Return a path as an absolute one without dots."""
    if text == "~" or text.startswith("~/"):
        text = origin.environ.get("HOME", "~") + text[1:]
    return os.path.normpath(os.path.join(origin.base, text))


def location(text: str, path: Path, schemes: tuple[str, ...] | None, origin: Origin, findings: Findings) -> str:
    """Return a path made absolute, or a URL as it is.

    Args:
        text: a path or a URL.
        path: where it stands, for messages.
        schemes: the kinds of URL that can be used here; None for all.
    """
    scheme, colon, rest = text.partition("://")
    if not colon:
        return local(text, origin)
    scheme = scheme.lower()
    if scheme == "file":
        if not rest.startswith("/"):
            findings.report(path, f"a file URL has three slashes: write file:///{rest}")
        from urllib.parse import unquote  # rarely needed, and it brings `ipaddress`

        return os.path.normpath(unquote(rest))
    if schemes is not None and scheme not in schemes:
        kinds = ", ".join(f"{one}://" for one in ("s3", "gs", "az", "https") if one in schemes)
        findings.report(path, f"{scheme[:20]}:// can't be used here; write a path, or {kinds}")
    if ":" in rest.partition("/")[0].rpartition("@")[0]:
        findings.report(path, "the URL has a password in it, and a config is stored and printed; remove it")
    elif scheme in urls.WEB and scheme in (schemes or ()) and (flaw := urls.flaw(text)):
        findings.report(path, flaw)
    return text


def store(text: str, origin: Origin, findings: Findings) -> str:
    """Return the config's ``store``."""
    text = interpolate(text, ("store",), origin, findings)
    if not text:
        findings.report(("store",), "it is empty; write a directory such as ./runs, or a URL such as s3://bucket/prefix")
    return location(text, ("store",), BUCKET_SCHEMES, origin, findings)


def code(text: str | None, origin: Origin, findings: Findings) -> str | None:
    """Return the config's ``code``."""
    if text is None or (origin.is_resolved and text.startswith("sha256:")):
        return text  # shipped code lies in the store
    text = interpolate(text, ("code",), origin, findings)
    if "://" in text and not text.startswith("file:"):
        if not origin.is_resolved:
            findings.report(("code",), "code is a directory on this machine; write a path, or null if it is baked into the image")
        return text
    return location(text, ("code",), None, origin, findings)


def image(text: str, path: Path, origin: Origin, findings: Findings) -> str:
    """Return an image's name."""
    text = interpolate(text, path, origin, findings)
    if not text or not text.isprintable() or " " in text or text.startswith("-"):
        findings.report(path, f"{text[:80]!r} is not an image; write such as zen-runner:cpu")
    return text
