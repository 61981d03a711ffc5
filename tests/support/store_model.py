"""A model of what every store must do, driven by hypothesis; each kind of store is checked against it."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from backends.store.base import Store

PARTS = st.sampled_from(["a", "b", "é ü", "x%2F", "c.json", "#?&+", ".d"])
# Objects at two depths whose names can't meet: nothing is both an object and a folder on a disk.
KEYS = st.one_of(
    st.builds("f-{}".format, PARTS),
    st.builds("d-{}/f-{}".format, PARTS, PARTS),
    st.builds("d-{}/d-{}/f-{}".format, PARTS, PARTS, PARTS),
)
DATA = st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"x" * 70_000, b"\n"]))


def machine(fresh: Callable[[], Store]) -> type[RuleBasedStateMachine]:
    """Return the state machine for stores that ``fresh`` makes, each empty."""

    class StoreMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.store = fresh()
            self.model: dict[str, bytes] = {}

        def teardown(self) -> None:
            if self.store.root is not None:
                shutil.rmtree(self.store.root)

        @rule(key=KEYS, data=DATA)
        def put(self, key: str, data: bytes) -> None:
            self.store.put(key, data)
            self.model[key] = data

        @rule(key=KEYS, data=DATA)
        def create(self, key: str, data: bytes) -> None:
            # A bucket answers True for the very same bytes, since that may be its own write repeated.
            made = self.store.create(key, data)
            if key not in self.model:
                assert made
                self.model[key] = data
            elif self.model[key] != data:
                assert not made

        @rule(key=KEYS)
        def delete(self, key: str) -> None:
            self.store.delete(key)
            self.model.pop(key, None)

        @rule(key=KEYS, start=st.integers(0, 70_001))
        def get(self, key: str, start: int) -> None:
            known = self.model.get(key)
            assert self.store.get(key) == known
            assert self.store.get(key, start) == (None if known is None else known[start:])
            assert self.store.exists(key) == (key in self.model)
            assert b"".join(self.store.stream(key)) == (known or b"")

        @rule(key=KEYS)
        def age(self, key: str) -> None:
            age = self.store.age(key)
            assert (age is None) == (key not in self.model)
            assert age is None or 0 <= age < 60

        @rule(key=st.one_of(KEYS, st.builds("d-{}".format, PARTS)))
        def listing(self, key: str) -> None:
            folder = key.rpartition("/")[0] if "f-" in key else key
            names = {k[len(folder) + 1 :].split("/")[0] for k in self.model if k.startswith(folder + "/")}
            if folder:
                found = self.store.names(folder)
                assert found == sorted(found)
                # A disk may keep a folder whose last object is gone.
                assert {n for n in found if n.startswith("f-") or list(self.store.walk(f"{folder}/{n}"))} == names
                below = {k: len(v) for k, v in self.model.items() if k.startswith(folder + "/")}
                assert dict(self.store.walk(folder)) == below

        @invariant()
        def whole(self) -> None:
            assert dict(self.store.walk("")) == {key: len(data) for key, data in self.model.items()}

    return StoreMachine
