"""Run one ``call`` step inside the user's Python: import the function, call it, keep what it returns.

This file stands alone: standard library only, Python 3.8 and later. The step can import nothing of zen-runner.
Its one argument is a JSON document, or ``@`` and the path of a file with it:

    {"kind": "call", "target": "package.module:function", "paths": {name: path}, "args": {...}, "values": path, "error": path}

The function gets ``paths`` as pathlib.Path and ``args`` as they are, by parameter name. What it returns is written as JSON to
``values``, which is there from the call on. When anything goes wrong, ``error`` gets {"class", "message", "traceback"} and the
exit status is not 0. With status 0, ``error`` says what of the returned could not be kept: its class is ``user`` for a value that
is not JSON, and ``note`` for what was no values at all.

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

DEPTH = 100  # levels of a value
SINGLE = 1 << 16  # characters of a list that is the one value of a step
LEAVE = 10.0  # seconds that atexit may take after a failure, where threads or processes are left
GENERATOR = 0x20 | 0x200  # CO_GENERATOR, CO_ASYNC_GENERATOR


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


def leave(status: int) -> NoReturn:
    """End with a failure's exit status; threads and processes of the user's that are left hold up nothing."""
    if "threading" not in sys.modules:
        sys.exit(status)
    import threading

    processes = sys.modules.get("multiprocessing.process")
    children = [] if processes is None else processes.active_children()
    if not children and all(thread.daemon or thread is threading.main_thread() for thread in threading.enumerate()):
        sys.exit(status)
    import atexit

    for child in children:
        child.terminate()
    timer = threading.Timer(LEAVE, os._exit, (status,))
    timer.daemon = True
    timer.start()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def fail(spec: dict[str, Any], kind: str, message: str, traceback: str = "", status: int = 1) -> NoReturn:
    """Write what went wrong for the supervisor, and end with an exit status that is not 0."""
    write_error(spec, kind, message, traceback)
    leave(status)


def status_of(error: SystemExit) -> int:
    """Return the exit status that ``sys.exit`` was given, as the interpreter would end with it."""
    code = error.code
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1


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
    except SystemExit as error:
        where = location(print_traceback())
        message = "sys.exit(%r) while importing %s, so %s was never called%s" % (error.code, module_name, target, where)
        fail(spec, "user", message + "; put it under if __name__ == '__main__':", status=status_of(error) or 1)
    except KeyboardInterrupt:
        leave(130)
    except BaseException as error:
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
    code: Any = getattr(function, "__code__", None) or getattr(getattr(type(function), "__call__", 0), "__code__", None)  # noqa: B004
    if code is not None and code.co_flags & GENERATOR:
        message = "%s: %s has a yield in it, so that a call of it runs nothing" % (spec["kind"], spec["target"])
        fail(spec, "config", message + "; loop in the function, and return its values as a mapping")
    if not hasattr(function, "__code__") or hasattr(function, "__wrapped__") or hasattr(function, "__self__"):
        return  # a class, an object, a builtin, a decorated function, a method: the call itself will show
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

    kind, error, whole = sys.exc_info()
    own = os.path.dirname(os.path.abspath(__file__))
    trace = frame = whole
    while frame is not None:  # asyncio may be between our frames
        if os.path.dirname(os.path.abspath(frame.tb_frame.f_code.co_filename)) == own:
            trace = frame.tb_next
        frame = frame.tb_next
    trace = trace or whole
    traceback.print_exception(kind, error, trace)
    return trace


def location(trace: TracebackType | None) -> str:
    """Return where a traceback ends, as `` (file:line)``, or an empty string."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else " (%s:%d)" % (trace.tb_frame.f_code.co_filename, trace.tb_lineno)


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


def _number(value: Any) -> int | float | None:
    """Return the number that a scalar of NumPy, pandas, PyTorch and others is, or None for what is none."""
    if isinstance(value, (str, bytes, complex)) or tuple(getattr(value, "shape", ())):
        return None
    item = getattr(value, "item", None)
    if callable(item):
        plain = item()
        if isinstance(plain, (bool, int, float)):
            return plain
        if type(plain) is not type(value):
            return None
    if hasattr(type(value), "__index__"):
        return int(value.__index__())
    return float(value) if hasattr(type(value), "__float__") else None


def _fields(value: Any) -> Any:
    """Return what has names as a mapping, and anything else as it is."""
    if isinstance(value, type) or (hasattr(value, "keys") and hasattr(value, "items")):
        return value
    if hasattr(value, "__dataclass_fields__"):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    if hasattr(value, "__attrs_attrs__"):
        return {field.name: getattr(value, field.name) for field in value.__attrs_attrs__}
    return value._asdict() if isinstance(value, tuple) and hasattr(value, "_asdict") else value


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON has it: a scalar as a number, a dataclass as a mapping.

    Raises:
        TypeError: it is not JSON.
        ValueError: it is nested too deeply, or holds itself.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if depth > DEPTH:
        raise ValueError("it is nested more than %d levels deep" % DEPTH)
    if not isinstance(value, tuple):  # in a value, a named tuple is a list, as json has it
        value = _fields(value)
    if hasattr(value, "items") and hasattr(value, "keys") and not isinstance(value, type):
        return {_key(key): _plain(below, depth + 1) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(below, depth + 1) for below in value]
    number = _number(value)
    if number is None:
        raise TypeError("%s is not JSON" % type(value).__name__)
    return number


def _key(key: Any) -> Any:
    return key if key is None or isinstance(key, (bool, int, float, str)) else _plain(key)


def _save_values(spec: dict[str, Any], returned: Any) -> None:
    """Write the values; of those that are not JSON, the error file has the names, and the others are kept."""
    import json

    kept, lost = {}, []
    try:
        text = json.dumps(dict(returned))
    except Exception:
        for name, value in returned.items():
            try:
                plain = {_key(name): _plain(value)}
                json.dumps(plain)
                kept.update(plain)
            except Exception as error:
                lost.append("%r (%s)" % (name, error))
        text = json.dumps(kept)
    _write_values(spec, text)
    if lost:
        message = "%s returned a value that is not JSON: %s" % (spec["target"], ", ".join(lost[:5]))
        write_error(spec, "user", message)


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
    except SystemExit as error:
        if not status_of(error):
            raise
        if not isinstance(error.code, int):
            sys.stderr.write("%s\n" % (error.code,))
        leave(status_of(error))
    except KeyboardInterrupt:
        leave(130)
    except BaseException as error:
        where = location(print_traceback())
        fail(spec, "user", "%s: %s%s" % (type(error).__name__, error, where))
    save_returned(spec, returned)


def save_returned(spec: dict[str, Any], returned: Any) -> None:
    """Write what the function returned to the step's values: by its names, or as ``value`` where it is one itself."""
    if returned is None:
        return
    try:
        named = _fields(returned)
        if hasattr(named, "items") and hasattr(named, "keys") and not isinstance(named, type):
            _save_values(spec, named)
            return
    except Exception as error:
        message = "what %s returned can't be read: %s: %s" % (spec["target"], type(error).__name__, error)
        write_error(spec, "user", message)
        return
    import json

    try:
        text = json.dumps({"value": _plain(named)})
        if len(text) <= SINGLE:
            _write_values(spec, text)
            return
        why = "it is larger than %d bytes" % SINGLE
    except Exception as error:
        why = str(error)
    message = "%s returned a %s, of which nothing is kept (%s)" % (spec["target"], type(returned).__name__, why)
    write_error(spec, "note", message + "; return a mapping to keep values, and write data to an output")


if __name__ == "__main__":
    main()
