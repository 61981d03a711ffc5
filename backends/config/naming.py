"""What a name may look like: steps, variables, functions, and what looks secret."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from backends.config.findings import Findings
    from backends.config.paths import Path

_SECRET_WORDS = frozenset(
    ("KEY", "KEYS", "APIKEY", "TOKEN", "SECRET", "SECRETS", "PASSWORD", "PASSWORDS", "PASSWD", "CREDENTIAL", "CREDENTIALS")
)
_SECRET_ENDS = ("PASSWORD", "PASSWD", "SECRET", "APIKEY")
NAME_RULE = "lower-case letters, digits, '-' and '_', a letter or digit at both ends, at most 63"


def looks_secret(name: str) -> bool:
    """Return whether a variable's name says that its value is secret: ``API_KEY`` does, ``MAX_TOKENS`` doesn't."""
    words = "".join(char if char.isalnum() else " " for char in name.upper()).split()
    return any(word in _SECRET_WORDS or word.endswith(_SECRET_ENDS) for word in words)


def slug(text: str) -> str:
    """Return the text as a name: ``My Pipeline`` becomes ``my-pipeline``, and what has nothing usable ``pipeline``."""
    kept = "".join(char if char.isascii() and (char.isalnum() or char in "-_") else "-" for char in text.lower())
    return kept[:63].strip("-_") or "pipeline"


def is_name(text: str) -> bool:
    return slug(text) == text


def is_identifier(text: str) -> bool:
    return text.isascii() and text.isidentifier()


def is_function(text: str) -> bool:
    module, colon, function = text.partition(":")
    return bool(colon) and all(map(is_identifier, (*module.split("."), *function.split("."))))


def check_name(name: str, noun: str, path: Path, findings: Findings) -> None:
    """Report a name that breaks the rule; ``noun`` says whose it is, such as ``a step's name``."""
    if not is_name(name):
        findings.report(path, f"{name[:80]!r} is not {noun} ({NAME_RULE}); write such as {slug(name)}")
