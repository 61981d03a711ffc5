"""What to do when a step's function is not found, does not fit its arguments, or fails.

A file beside ``call.py``, which loads it then and not before: Python compiles a script at each start.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, NoReturn

LEAVE = 10.0  # seconds that atexit may take after a failure, where threads or processes are left
GENERATOR = 0x20 | 0x200  # CO_GENERATOR, CO_ASYNC_GENERATOR


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


def not_imported(spec: dict[str, Any], target: str, error: BaseException) -> NoReturn:
    """End with a message that says why the function's module can't be imported."""
    module_name = target.partition(":")[0]
    if isinstance(error, ModuleNotFoundError):
        missing = error.name or ""
        if module_name == missing or module_name.startswith(missing + "."):
            where = " or ".join(repr(entry or os.getcwd()) for entry in sys.path[:1])
            fail(spec, "config", "%s: no module %r in %s (nor installed for %s)" % (spec["kind"], missing, where, sys.executable))
        print_traceback()
        fail(spec, "user", "%s: %s (install it for the step's Python, %s)" % (type(error).__name__, error, sys.executable))
    if isinstance(error, SystemExit):
        where = location(print_traceback())
        message = "sys.exit(%r) while importing %s, so %s was never called%s" % (error.code, module_name, target, where)
        fail(spec, "user", message + "; put it under if __name__ == '__main__':", status=status_of(error) or 1)
    if isinstance(error, KeyboardInterrupt):
        leave(130)
    print_traceback()
    fail(spec, "user", "%s while importing %s: %s" % (type(error).__name__, module_name, error))


def not_there(spec: dict[str, Any], target: str, found: object) -> NoReturn:
    """End with a message that names the attribute which is missing in what was found so far."""
    import difflib

    module_name, _, attribute = target.partition(":")
    close = difflib.get_close_matches(attribute, [name for name in dir(found) if not name.startswith("_")], 1)
    hint = " (did you mean %r?)" % close[0] if close else ""
    fail(spec, "config", "%s: module %s has no %r%s" % (spec["kind"], module_name, attribute, hint))


def failed(spec: dict[str, Any], error: BaseException) -> None:
    """End as the function did that raised this; return where that is an exit with status 0."""
    if isinstance(error, SystemExit):
        if not status_of(error):
            return
        if not isinstance(error.code, int):
            sys.stderr.write("%s\n" % (error.code,))
        leave(status_of(error))
    if isinstance(error, KeyboardInterrupt):
        leave(130)
    where = location(print_traceback())
    fail(spec, "user", "%s: %s%s" % (type(error).__name__, error, where))


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
