"""JSON as it goes over every wire and into every record: canonical, small, and quick to start.

``import json`` costs a fifth of a Python start because it brings ``re`` and ``enum``. Its two C halves don't, so where they are
there, they are used directly; elsewhere the library itself is. Both give the same bytes, and a test holds them to it.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _reject(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not JSON")


def _reject_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value - value:  # infinite, so that it could not be written again
        raise ValueError(f"{text[:40]} is more than a number can be")
    return value


class _Scanner:
    """The attributes that ``_json.make_scanner`` reads, as ``json.JSONDecoder`` has them."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = staticmethod(_finite)
    parse_int = int
    parse_constant = staticmethod(_reject_constant)
    memo: dict[str, str] = {}  # noqa: RUF012 - the C code wants it here


def _c_halves() -> tuple[Any, Any] | None:
    if "json" in sys.modules:
        return None  # already paid for
    try:
        import _json as json_c

        _json: Any = json_c  # its stub describes less than it does
        scan = _json.make_scanner(_Scanner)
        encode = _json.make_encoder(None, _reject, _json.encode_basestring_ascii, None, ":", ",", True, False, False)
        if "".join(encode({"a": [1, 2.5, None, "é"]}, 0)) != '{"a":[1,2.5,null,"\\u00e9"]}' or scan("[1]", 0) != ([1], 3):
            return None
        return scan, encode
    except (ImportError, AttributeError, TypeError, ValueError):
        return None  # another implementation of Python, or one that changed its insides


_HALVES = _c_halves()
_SPACE = " \t\n\r"


def dumps(value: Any) -> str:
    """Return ``value`` as canonical JSON: keys sorted, no spaces, ASCII only, no NaN.

    Raises:
        TypeError: something in it has no JSON form.
        ValueError: a float in it is not finite.
        RecursionError: it is nested too deeply, or holds itself.
    """
    if _HALVES is None:
        import json

        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, check_circular=False, default=_reject)
    return "".join(_HALVES[1](value, 0))


def loads(text: str | bytes) -> Any:
    """Return the value of one JSON document.

    Raises:
        ValueError: it is not JSON, not UTF-8, or has a number that is no finite float.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    if _HALVES is None:
        import json

        return json.loads(text, parse_float=_finite, parse_constant=_reject_constant)
    start, end = 0, len(text)
    while start < end and text[start] in _SPACE:
        start += 1
    try:
        value, stop = _HALVES[0](text, start)
        if not text[stop:].strip(_SPACE):
            return value
    except (StopIteration, SystemError, ValueError):
        pass  # the bare scanner can't word its errors; the library says it properly
    import json

    return json.loads(text, parse_float=_finite, parse_constant=_reject_constant)


def sha256(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as 64 hexadecimal digits."""
    try:  # the interpreter's own implementation starts quicker than hashlib's OpenSSL
        from _sha2 import sha256 as new  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        try:
            from _sha256 import sha256 as new  # type: ignore[import-not-found, no-redef, unused-ignore]
        except ImportError:
            from hashlib import sha256 as new
    return str(new(data).hexdigest())
