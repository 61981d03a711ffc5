"""Run one ``call`` step inside the user's Python: import the function, call it, keep what it returns.

This file stands alone: standard library only, Python 3.8 and later. The step can import nothing of zen-runner.
Its one argument is a JSON document, or ``@`` and the path of a file with it:

    {"kind": "call", "target": "package.module:function", "paths": {name: path}, "args": {...}, "values": path, "error": path}

The function gets ``paths`` as pathlib.Path and ``args`` as they are, by parameter name. What it returns is written as JSON to
``values``, which is there from the call on. When anything goes wrong, ``error`` gets {"class", "message", "traceback"} and the
exit status is not 0. With status 0, ``error`` says what of the returned could not be kept: its class is ``user`` for a value that
is not JSON, and ``note`` for what was no values at all.

``beam.py`` and ``spark.py`` do the same for steps on Beam and Spark. They load this file for what they share, and are
files of their own because Python compiles a script at each start. For the same reason ``failures.py`` and ``returned.py``
have what most steps never need.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

SINGLE = 1 << 16  # characters of the one value of a step
UNUSUAL = 0x04 | 0x08 | 0x20 | 0x200  # CO_VARARGS, CO_VARKEYWORDS, CO_GENERATOR, CO_ASYNC_GENERATOR


def load(name: str) -> Any:
    """Load a file next to this one, under a name that no module of the user's has."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec: Any = spec_from_file_location("_" + name, os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py"))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _loads(text: str) -> Any:
    try:  # json brings re and enum, which a small step may never need
        import _json as json_c

        _json: Any = json_c  # its stub says less than it does

        class Context:
            strict, object_hook, object_pairs_hook = True, None, None
            parse_float, parse_int, parse_constant = float, int, float
            memo: dict[str, str] = {}  # noqa: RUF012 - the C code wants it here

        return _json.make_scanner(Context)(text, 0)[0]
    except Exception:
        import json

        return json.loads(text)


def write_error(spec: dict[str, Any], kind: str, message: str) -> None:
    """Write what went wrong to the file that the supervisor reads."""
    load("failures").write_error(spec, kind, message)


def fail(spec: dict[str, Any], kind: str, message: str, traceback: str = "") -> NoReturn:
    """Write what went wrong for the supervisor, and end with an exit status that is not 0."""
    load("failures").fail(spec, kind, message, traceback)
    raise AssertionError  # not reached; it is for type checkers


def find(spec: dict[str, Any], target: str) -> Callable[..., object]:
    """Import and return the function, or end with a message that names what is missing."""
    module_name, _, attribute = target.partition(":")
    try:
        __import__(module_name)
    except BaseException as error:
        load("failures").not_imported(spec, target, error)
    function: Any = sys.modules[module_name]
    try:
        for part in attribute.split("."):
            function = getattr(function, part)
    except AttributeError:
        load("failures").not_there(spec, target, function)
    if not callable(function):
        fail(spec, "config", "%s: %s is a %s, not a function" % (spec["kind"], target, type(function).__name__))
    return function  # type: ignore[no-any-return]


def check(spec: dict[str, Any], function: Callable[..., object], given: dict[str, object], first: tuple[str, ...] = ()) -> None:
    """Check that the function takes the arguments that it will get, or end with a message.

    Args:
        spec: the document.
        function: the step's function.
        given: the arguments by name.
        first: names of the positional arguments before them, for messages.
    """
    code: Any = getattr(function, "__code__", None)
    if code is not None and not code.co_flags & UNUSUAL and not code.co_posonlyargcount and not first:
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        needed = names[: code.co_argcount - len(getattr(function, "__defaults__", None) or ())] + names[code.co_argcount :]
        if all(name in given for name in needed) and all(name in names for name in given):
            return
    load("failures").check(spec, function, given, first)


def call(function: Callable[..., Any], *args: object, **kwargs: object) -> Any:
    """Call the function to its end, also one that is ``async def``, and return what it returns."""
    returned = function(*args, **kwargs)
    if hasattr(returned, "__await__"):
        import asyncio

        async def wait() -> Any:
            return await returned

        returned = asyncio.run(wait())
    if hasattr(returned, "gi_code") or hasattr(returned, "ag_code"):
        raise TypeError("the function returned a generator, of which not a line has run; loop in it, and return a mapping")
    return returned


def _write_values(spec: dict[str, Any], text: str) -> None:
    with open(spec["values"] + ".new", "w") as file:
        file.write(text)
    os.replace(spec["values"] + ".new", spec["values"])


def read() -> dict[str, Any]:
    """Return this process's document, and set ``sys.path`` and ``sys.argv`` as the step's own program would have them."""
    text = sys.argv[1]
    if text.startswith("@"):
        with open(text[1:]) as file:
            text = file.read()
    spec: dict[str, Any] = _loads(text)
    # The step's code is in its working directory, not in this file's folder. PYTHONSAFEPATH adds neither.
    if sys.path and sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
        del sys.path[0]
    sys.path.insert(0, os.getcwd())
    sys.argv = [spec["target"]]
    return spec


def main() -> None:
    """Run the step."""
    spec = read()
    function = find(spec, spec["target"])
    given: dict[str, object] = dict(spec["args"])
    if spec["paths"]:
        from pathlib import Path

        for name, path in spec["paths"].items():
            given[name] = Path(path) if spec.get("as") != "url" else path
    check(spec, function, given)
    _write_values(spec, "{}")  # without it, nothing was called
    try:
        returned = call(function, **given)
    except BaseException as error:
        load("failures").failed(spec, error)
        raise
    save_returned(spec, returned)


def save_returned(spec: dict[str, Any], returned: Any) -> None:
    """Write what the function returned to the step's values: by its names, or as ``value`` where it is one itself."""
    if returned is None:
        return
    plain = type(returned) in (dict, bool, int, float, str)
    text = kind = message = ""
    try:
        if plain:
            import json

            text = json.dumps(returned if type(returned) is dict else {"value": returned})
            plain = type(returned) is dict or len(text) <= SINGLE
    except Exception:
        plain = False  # the long way says what can't be kept
    if not plain:
        text, kind, message = load("returned").as_json(spec["target"], returned, SINGLE)
    if text:
        _write_values(spec, text)
    if message:
        write_error(spec, kind, message)


if __name__ == "__main__":
    main()
