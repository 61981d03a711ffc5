"""The patterns of ``.zenignore``, which are those of ``.gitignore``, matched as git matches them.

A walk asks about each directory before it goes in and never enters an ignored one, which is why, here as in git, a file
cannot be taken back in once its directory is out.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from backends import errors


class Rule(NamedTuple):
    """One line of the file.

    Args:
        keep: the line began with ``!``.
        only_directories: the line ended with ``/``.
        whole_path: match the path from the root, not the last name alone.
        pattern: what has to match in full.
    """

    keep: bool
    only_directories: bool
    whole_path: bool
    pattern: re.Pattern[str]


def parse(text: str, where: str) -> list[Rule]:
    """Return the rules of a ``.zenignore`` in their order.

    Args:
        text: the file's contents.
        where: the file's name for messages.

    Raises:
        ConfigError: lines that are no pattern, all of them in one go.

    Source: the pattern format of gitignore(5).
    """
    rules: list[Rule] = []
    problems: list[errors.Problem] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if line.startswith("#"):
            continue
        body = re.sub(r"(?<!\\) +$", "", line.removesuffix("\r"))
        keep = body.startswith("!")
        body = body[1:] if keep else body
        only_directories = body.endswith("/")
        body = body[:-1] if only_directories else body
        if not body.strip("/"):
            continue  # an empty line, or one that git takes for nothing too
        try:
            pattern = _translate(body.removeprefix("/").split("/"))
        except ValueError as error:
            problems.append(errors.Problem(f"{where}:{number}", "", f"{line!r} is not a pattern: {error}"))
            continue
        rules.append(Rule(keep, only_directories, "/" in body, pattern))
    if problems:
        raise errors.ConfigError(problems)
    return rules


def is_ignored(rules: list[Rule], path: str, is_directory: bool) -> bool:
    """Return whether a path is left out, given that its parents are not; the last rule that matches decides.

    Args:
        rules: what ``parse`` returned.
        path: relative to the root, with ``/`` between its names.
        is_directory: as it says; a link is none.
    """
    name = path.rpartition("/")[2]
    for rule in reversed(rules):
        if (is_directory or not rule.only_directories) and rule.pattern.fullmatch(path if rule.whole_path else name):
            return not rule.keep
    return False


def _translate(segments: list[str]) -> re.Pattern[str]:
    expression = ""
    for index, segment in enumerate(segments):
        last = index == len(segments) - 1
        if len(segment) > 1 and not segment.strip("*"):  # "**", or more of them
            expression += ".+" if last else "(?:.*/)?"
        else:
            expression += _translate_segment(segment) + ("" if last else "/")
    return re.compile(expression, re.DOTALL)


def _translate_segment(segment: str) -> str:
    expression, at = "", 0
    while at < len(segment):
        char = segment[at]
        at += 1
        if char == "*":
            expression += "[^/]*"
        elif char == "?":
            expression += "[^/]"
        elif char == "[":
            inside, at = _translate_set(segment, at)
            expression += inside
        elif char == "\\":
            if at == len(segment):
                raise ValueError("nothing follows its last backslash")
            expression += re.escape(segment[at])
            at += 1
        else:
            expression += re.escape(char)
    return expression


def _translate_set(segment: str, at: int) -> tuple[str, int]:
    """Return the expression of the ``[…]`` whose inside begins at ``at``, and where it ends."""
    found = re.compile(r"([!^]?)(\]?(?:\\.|[^\]\\])*)\]").match(segment, at)
    if not found:
        raise ValueError("its '[' is never closed; write '\\[' for the character")
    negated, members = found.groups()
    if "[:" in members:
        raise ValueError("named character classes are not known here; write the range, such as [a-z]")
    members = re.sub(r"\\(.)|([\[\]&~|^])", lambda match: re.escape(match[1] or match[2]), members)
    try:
        expression = f"(?!/)[{'^' if negated else ''}{members}]"
        re.compile(expression)
    except re.error as error:
        raise ValueError(str(error)) from None
    return expression, found.end()
