"""Names that a platform takes, made of names that people gave: deterministic, valid and unique.

A name that fits as it is stays as it is. Any other is cut to what is allowed and ends in a digest of the whole, so that two that
look alike after the cut are still two.
"""

from __future__ import annotations

from backends import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

DIGITS = "0123456789"
LOWER = "abcdefghijklmnopqrstuvwxyz"
LETTERS = LOWER + LOWER.upper()
DIGEST = 10
"""Hexadecimal digits at the end of a name that was changed: 40 bits: two of a thousand names with the same beginning collide with
a chance of one in two million."""


class Rule:
    """What a platform takes for a name.

    Args:
        limit: the most characters, at least ``DIGEST`` + 2.
        inner: the characters that it may have, ``-`` among them.
        first: the characters that it may begin with.
        last: the characters that it may end with.
    """

    __slots__ = ("first", "inner", "last", "limit")

    def __init__(self, limit: int, inner: Iterable[str], first: Iterable[str], last: Iterable[str]) -> None:
        self.limit = limit
        self.inner = frozenset(inner)
        self.first = frozenset(first)
        self.last = frozenset(last)

    def allows(self, name: str) -> bool:
        """Return whether the platform takes a name as it is."""
        return 0 < len(name) <= self.limit and name[0] in self.first and name[-1] in self.last and self.inner.issuperset(name)

    def within(self, limit: int) -> Rule:
        """Return the same rule with another limit, for a part of a name."""
        return Rule(limit, self.inner, self.first, self.last)


def fit(rule: Rule, *parts: str) -> str:
    """Return a name for what the parts say together.

    Args:
        rule: what the platform takes.
        parts: such as the run's id and the step; the same parts give the same name, others give another.

    Returns:
        The part itself if it is a single one that the platform takes; else what can be kept of the parts, joined by ``-``,
        and the digest of them all.
    """
    if len(parts) == 1 and rule.allows(parts[0]) and not _looks_made(parts[0]):
        return parts[0]
    digest = wire.sha256(wire.dumps(list(parts)).encode())[:DIGEST]
    kept = "-".join(parts)
    if not rule.inner.issuperset(LETTERS):
        kept = kept.lower()
    kept = "".join(char if char in rule.inner else "-" for char in kept)
    start = next((at for at, char in enumerate(kept) if char in rule.first), len(kept))
    kept = kept[start : start + rule.limit - DIGEST - 1].rstrip("-_.")
    return f"{kept or 'x'}-{digest}"


def _looks_made(name: str) -> bool:
    """Return whether a name ends as those do that are made here; it could be the name of something else."""
    digest = name[-DIGEST:]
    return len(name) > DIGEST and name[-DIGEST - 1] == "-" and frozenset("0123456789abcdef").issuperset(digest)
