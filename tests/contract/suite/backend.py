"""What a backend of any role must do: keep its arguments, and give them to any process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from backends import base, wire
from backends.base import BaseBackend
from backends.errors import ConfigError
from tests.support import running
from tests.support.sdks import SDKS

# The same property test runs in every subclass, which hypothesis takes for a mistake.
inherited = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.differing_executors])


class BackendContract:
    """A backend of any role.

    Attributes:
        cls: the class.
        source: what ``to_config`` says it is.
        arguments: a strategy for the keyword arguments of one.
    """

    cls: ClassVar[type[BaseBackend]]
    source: ClassVar[str]
    arguments: ClassVar[st.SearchStrategy[dict[str, Any]]]

    @inherited
    @given(data=st.data())
    def test_config_round_trip(self, data: st.DataObject) -> None:
        args = data.draw(self.arguments)
        backend = self.cls(**args)
        block = backend.to_config()
        assert set(block) == {"type", "source", "args"}
        assert block == {"type": self.cls.BACKEND_TYPE, "source": self.source, "args": {**block["args"], **args}}
        assert wire.loads(wire.dumps(block)) == block
        for again in (
            BaseBackend.from_config(block),
            self.cls.from_config(wire.loads(wire.dumps(block))),
            base.load(block),
            base.load({"source": self.source, "args": args}, self.cls.BACKEND_TYPE),
        ):
            assert type(again) is self.cls
            assert again == backend and hash(again) == hash(backend)
            assert again.to_config() == block

    @inherited
    @given(data=st.data())
    def test_equal_means_the_same_arguments(self, data: st.DataObject) -> None:
        one, two = (self.cls(**data.draw(self.arguments)) for _ in range(2))
        assert (one == two) == (wire.dumps(one.args) == wire.dumps(two.args))
        assert one != one.to_config()

    @settings(inherited, max_examples=3)
    @given(data=st.data())
    def test_another_process_reads_the_same_backend(self, data: st.DataObject) -> None:
        blocks = data.draw(st.lists(self.arguments.map(lambda args: self.cls(**args).to_config()), min_size=1, max_size=5))
        code = (
            "import sys\nfrom backends import wire\nfrom backends.base import BaseBackend\n"
            "print(wire.dumps([BaseBackend.from_config(block).to_config() for block in wire.loads(sys.stdin.read())]))"
        )
        env = {**os.environ, "PYTHONHASHSEED": "7"}
        argv, stdin = [sys.executable, "-c", code], wire.dumps(blocks)
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, cwd=running.ROOT, env=env, check=True)
        assert wire.loads(done.stdout) == blocks

    @inherited
    @given(data=st.data())
    def test_repr_names_the_class_and_its_arguments(self, data: st.DataObject) -> None:
        backend = self.cls(**data.draw(self.arguments))
        text = repr(backend)
        assert text.startswith(f"{self.cls.__qualname__}(")
        assert [name for name, value in backend.args.items() if f"{name}={value!r}" not in text] == [], text

    def test_an_unknown_argument_is_a_config_error(self) -> None:
        args = {**_one(self.arguments), "no_such_argument": 1}
        with pytest.raises(ConfigError, match=r"args\.no_such_argument"):
            base.load({"type": self.cls.BACKEND_TYPE, "source": self.source, "args": args})

    def test_a_wrong_type_is_a_config_error(self) -> None:
        for name in self.cls(**_one(self.arguments)).args:
            args = {**_one(self.arguments), name: {"no": {"such": ["type"]}}}
            with pytest.raises(ConfigError, match=rf"args\.{name}"):
                base.load({"type": self.cls.BACKEND_TYPE, "source": self.source, "args": args})

    def test_defaults_are_not_shared_between_backends(self) -> None:
        function: Any = self.cls.__init__
        positional, by_name = getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None)
        defaults = [*(positional or ()), *(by_name or {}).values()]
        assert [value for value in defaults if isinstance(value, dict | list | set)] == []

    def test_making_one_needs_no_platform(self) -> None:
        config = self.cls(**_one(self.arguments)).to_config()
        isolated(f"BaseBackend.from_config({config!r}).to_config()")


def isolated(expression: str, stdin: str = "", **env: str) -> str:
    """Return the JSON of an expression's value, worked out in a new process that may use no network and no SDK."""
    code = f"""
import sys
def refuse(event, args):
    if event.split(".")[0] in ("socket", "subprocess") or event in ("os.posix_spawn", "os.fork", "os.exec"):
        raise RuntimeError(f"not offline: {{event}} {{args}}")
    if event == "open" and isinstance(args[2], int) and args[2] & 3 and "__pycache__" not in str(args[0]):
        raise RuntimeError(f"not pure: opens {{args[0]}} for writing")
sys.addaudithook(refuse)
from backends import wire
from backends.base import BaseBackend
print(wire.dumps({expression}))
loaded = {{name.split(".")[0] for name in sys.modules}} & set({sorted(SDKS)!r})
assert not loaded, f"imported {{loaded}}"
"""
    environ = {**os.environ, **env}
    done = subprocess.run(
        [sys.executable, "-c", code], input=stdin, capture_output=True, text=True, cwd=running.ROOT, env=environ, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _one(strategy: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """Return one simple example, the same each time."""
    return find(strategy, lambda args: True)
