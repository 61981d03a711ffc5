"""Placeholders: ``{inputs.x}``, ``{outputs.x}``, ``{args.x}``, ``{STEP.values.a.b}`` and ``{item.x}`` in a step's strings.

A reference is a dotted name between braces: two or more segments of letters, digits, ``_`` and ``-``, the first of
them with a letter in it; and ``{item}`` alone. ``{{inputs.x}}`` stands for the text ``{inputs.x}``. Every other brace is plain
text. Nothing goes through a shell, and what was put in is never read again: a value that looks like a placeholder stays what
it is.
"""

from __future__ import annotations

from backends import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Lookup = Callable[[tuple[str, ...]], object]

ITEM = "item"
"""What the placeholders of a ``foreach`` step's item begin with."""
_LONGEST = 256  # characters of one reference; a bound keeps scanning linear whatever the text


def _is_reference(body: str) -> bool:
    segments = body.split(".")
    if len(segments) < 2 or not body.isascii():
        return body == ITEM
    for segment in segments:
        if not segment.replace("_", "a").replace("-", "a").isalnum():
            return False
    head = segments[0]
    return head[0] != "-" and not head.replace("_", "").replace("-", "").isdigit()


def _next(text: str, at: int, end: int) -> int:
    """Return where the next reference could begin, past what can't be one, however many braces there are.

    Args:
        text: the whole.
        at: of the brace that begins none.
        end: of the brace that would have ended it; negative if that is too far.
    """
    if end < 0:
        end = text.find("}", at)
        return len(text) if end < 0 else max(at + 1, end - _LONGEST - 2)
    return max(at + 1, text.rfind("{", at, end) - 1)  # nothing with a brace within is a reference


def _pieces(text: str) -> Iterator[tuple[bool, str]]:
    """Yield ``(is a reference, text)``; a reference comes without its braces."""
    at = start = 0
    while (at := text.find("{", at)) >= 0:
        double = text.startswith("{{", at)
        begin = at + 2 if double else at + 1
        end = text.find("}", begin, begin + _LONGEST)
        if end < 0 or not _is_reference(text[begin:end]) or (double and not text.startswith("}}", end)):
            at = _next(text, at, end)
            continue
        if at > start:
            yield False, text[start:at]
        if double:
            yield False, text[at + 1 : end + 1]
        else:
            yield True, text[begin:end]
        at = start = end + 2 if double else end + 1
    if start < len(text):
        yield False, text[start:]


def names(text: str) -> list[str]:
    """Return the references in ``text`` in order, dotted and without braces.

    Args:
        text: any string; most have none.
    """
    return [piece for is_reference, piece in _pieces(text) if is_reference] if "{" in text else []


def render(value: object) -> str:
    """Return what a value looks like inside a string: a string is itself, anything else its JSON.

    Raises:
        TypeError: the value has no JSON form.
        ValueError: a float in it is not finite.
    """
    return value if isinstance(value, str) else wire.dumps(value)


def substitute_text(text: str, lookup: Lookup) -> str:
    """Return ``text`` with each placeholder replaced by its rendered value.

    Args:
        text: the string with placeholders.
        lookup: gets the segments of a reference, such as ``("inputs", "table")``, and returns its value; what it raises
            passes through.
    """
    if "{" not in text:
        return text
    return "".join(render(lookup(tuple(piece.split(".")))) if is_reference else piece for is_reference, piece in _pieces(text))


def substitute(value: object, lookup: Lookup) -> object:
    """Return ``value`` with the placeholders of every string in it replaced; mapping keys stay as they are.

    A string that is one placeholder and nothing else becomes the value itself, with its type.

    Args:
        value: plain data: a string, or lists and mappings of such.
        lookup: as in :func:`substitute_text`.
    """
    if isinstance(value, str):
        if "{" not in value:
            return value
        pieces = list(_pieces(value))
        if len(pieces) == 1 and pieces[0][0]:
            return lookup(tuple(pieces[0][1].split(".")))
        return substitute_text(value, lookup)
    if isinstance(value, list):
        return [substitute(item, lookup) for item in value]
    if isinstance(value, dict):
        return {key: substitute(item, lookup) for key, item in value.items()}
    return value


def escape(text: str) -> str:
    """Return ``text`` with its placeholders written as plain text: reading it gives ``text`` again.

    Args:
        text: any string.
    """
    parts, at, done = [], 0, 0
    while (at := text.find("{", at)) >= 0:
        end = text.find("}", at + 1, at + 1 + _LONGEST)
        if end >= 0 and _is_reference(text[at + 1 : end]):
            parts += [text[done:at], "{", text[at : end + 1], "}"]
            done = end + 1
            at += 1
        else:
            at = _next(text, at, end)
    return "".join(parts) + text[done:]


def fill(value: object, head: str, lookup: Lookup) -> object:
    """Return ``value`` with the placeholders of one kind replaced, as :func:`substitute` does, to be read again for the others.

    Args:
        value: plain data: a string, or lists and mappings of such.
        head: what those placeholders begin with.
        lookup: as in :func:`substitute_text`.

    Raises:
        ValueError: what was put in would come to stand as a brace on both sides of another placeholder.
    """
    if isinstance(value, str):
        reference = tuple(value[1:-1].split("."))
        if reference[0] == head and names(value) == [value[1:-1]]:
            return escaped(lookup(reference))
        return fill_text(value, head, lookup)
    if isinstance(value, list):
        return [fill(item, head, lookup) for item in value]
    if isinstance(value, dict):
        return {key: fill(item, head, lookup) for key, item in value.items()}
    return value


def fill_text(text: str, head: str, lookup: Lookup) -> str:
    """Return ``text`` as :func:`fill` does, but always as text.

    Args:
        text: the string with placeholders.
        head: what those to replace begin with.
        lookup: as in :func:`substitute_text`.

    Raises:
        ValueError: as :func:`fill`.
    """
    if not any(name.partition(".")[0] == head for name in names(text)):
        return text
    plain = [""]  # the texts before, between and after the placeholders that stay
    kept: list[str] = []
    for is_reference, piece in _pieces(text):
        if is_reference and piece.partition(".")[0] != head:
            kept.append("{" + piece + "}")
            plain.append("")
        else:
            plain[-1] += render(lookup(tuple(piece.split(".")))) if is_reference else piece
    for before, name, after in zip(plain, kept, plain[1:], strict=False):
        if before.endswith("{") and after.startswith("}"):
            raise ValueError(f"the item puts braces around {name}, which would make it plain text")
    return "".join(escape(before) + name for before, name in zip(plain, [*kept, ""], strict=True))


def escaped(value: object) -> object:
    """Return plain data with :func:`escape` done to every string in it but the keys."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, list):
        return [escaped(item) for item in value]
    if isinstance(value, dict):
        return {key: escaped(item) for key, item in value.items()}
    return value
