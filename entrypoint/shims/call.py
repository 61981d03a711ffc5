"""Run one ``call`` step inside the user's Python: import the function, call it, keep what it returns.

This file stands alone: standard library only, Python 3.8 and later. The step can import nothing of zen-runner.
Its one argument is a JSON document, or ``@`` and the path of a file with it:

    {"kind": "call", "target": "package.module:function", "paths": {name: path}, "args": {...}, "values": path, "error": path}

The function gets ``paths`` as pathlib.Path and ``args`` as they are, by parameter name. A mapping that it returns is written as
JSON to ``values``. When anything goes wrong, ``error`` gets {"class", "message", "traceback"} and the exit status is not 0.

``beam.py`` and ``spark.py`` do the same for steps on Beam and Spark. They load this file for what they share, and are
files of their own because Python compiles a script at each start.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, NoReturn


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


def write_error(spec: dict[str, Any], kind: str, message: str, traceback: str = "") -> None:
    """Write what went wrong to the file that the supervisor reads."""
    import json

    with open(spec["error"] + ".new", "w") as file:
        json.dump({"class": kind, "message": message, "traceback": traceback}, file)
    os.replace(spec["error"] + ".new", spec["error"])
    sys.stdout.flush()
    sys.stderr.flush()


def fail(spec: dict[str, Any], kind: str, message: str, traceback: str = "") -> NoReturn:
    """Write what went wrong for the supervisor, and end with exit status 1."""
    write_error(spec, kind, message, traceback)
    sys.exit(1)


def find(spec: dict[str, Any], target: str) -> Callable[..., object]:
    """Import and return the function, or end with a message that names what is missing."""
    module_name, _, attribute = target.partition(":")
    try:
        __import__(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name == missing or module_name.startswith(missing + "."):
            where = " or ".join(repr(entry or os.getcwd()) for entry in sys.path[:1])
            fail(spec, "config", "%s: no module %r in %s (nor installed for %s)" % (spec["kind"], missing, where, sys.executable))
        print_traceback()
        fail(spec, "user", "%s: %s (install it for the step's Python, %s)" % (type(error).__name__, error, sys.executable))
    except Exception as error:
        print_traceback()
        fail(spec, "user", "%s while importing %s: %s" % (type(error).__name__, module_name, error))
    function: Any = sys.modules[module_name]
    try:
        for part in attribute.split("."):
            function = getattr(function, part)
    except AttributeError:
        import difflib

        close = difflib.get_close_matches(attribute, [name for name in dir(function) if not name.startswith("_")], 1)
        hint = " (did you mean %r?)" % close[0] if close else ""
        fail(spec, "config", "%s: module %s has no %r%s" % (spec["kind"], module_name, attribute, hint))
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
    if code is None or hasattr(function, "__wrapped__"):
        return  # a class, a builtin, a decorated function: the call itself will show
    if code.co_argcount < len(first) and not code.co_flags & 0x04:  # CO_VARARGS
        message = "%s: %s takes %d positional parameters, and gets (%s)" % (
            spec["kind"], spec["target"], code.co_argcount, ", ".join(first),
        )  # fmt: skip
        fail(spec, "config", message + "; write def %s(%s, ...)" % (function.__name__, ", ".join(first)))
    if code.co_flags & 0x08:  # CO_VARKEYWORDS: it takes **anything
        accepted = None
    else:
        by_name = max(code.co_posonlyargcount, len(first))
        accepted = code.co_varnames[by_name : code.co_argcount + code.co_kwonlyargcount]
    positional = code.co_varnames[len(first) : code.co_argcount]
    defaults = len(getattr(function, "__defaults__", None) or ())
    needed = list(positional[: max(0, len(positional) - defaults)])
    needed += [
        name
        for name in code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
        if name not in (getattr(function, "__kwdefaults__", None) or {})
    ]
    if accepted is not None:
        unknown = [name for name in given if name not in accepted]
        if unknown:
            takes = ", ".join(accepted) or "none"
            names = ", ".join(map(repr, unknown))
            message = "%s: %s takes no parameter %s; its parameters: %s" % (spec["kind"], spec["target"], names, takes)
            fail(spec, "config", message)
    missing = [name for name in needed if name not in given]
    if missing:
        nothing = "no input, output or arg" if spec["kind"] == "call" else "no arg"
        message = "%s: %s needs %s, which %s of the step is named" % (
            spec["kind"],
            spec["target"],
            ", ".join(map(repr, missing)),
            nothing,
        )
        fail(spec, "config", message)


def print_traceback() -> TracebackType | None:
    """Print the traceback of the current exception from the user's first line on."""
    import traceback

    kind, error, trace = sys.exc_info()
    own = os.path.dirname(os.path.abspath(__file__))
    while trace is not None and os.path.dirname(os.path.abspath(trace.tb_frame.f_code.co_filename)) == own:
        trace = trace.tb_next
    if trace is None:
        trace = sys.exc_info()[2]
    traceback.print_exception(kind, error, trace)
    return trace


def location(trace: TracebackType | None) -> str:
    """Return where a traceback ends, as `` (file:line)``, or an empty string."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else " (%s:%d)" % (trace.tb_frame.f_code.co_filename, trace.tb_lineno)


def _save_values(spec: dict[str, Any], returned: Any) -> None:
    import json

    try:
        text = json.dumps(dict(returned), allow_nan=False)
    except (TypeError, ValueError) as error:
        for name, value in returned.items():
            try:
                json.dumps({name: value}, allow_nan=False)
            except (TypeError, ValueError) as why:
                message = "%s returned a value that is not JSON: %r (%s)" % (spec["target"], name, why)
                fail(spec, "user", message)
        fail(spec, "user", "%s returned a mapping that is not JSON (%s)" % (spec["target"], error))
    with open(spec["values"], "w") as file:
        file.write(text)


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
    try:
        returned = function(**given)
    except SystemExit:
        raise
    except KeyboardInterrupt:
        sys.exit(130)
    except BaseException as error:
        where = location(print_traceback())
        fail(spec, "user", "%s: %s%s" % (type(error).__name__, error, where))
    save_returned(spec, returned)


def save_returned(spec: dict[str, Any], returned: object) -> None:
    """Write what the function returned to the step's values, if it is a mapping."""
    if hasattr(returned, "items") and hasattr(returned, "keys"):
        _save_values(spec, returned)


if __name__ == "__main__":
    main()
