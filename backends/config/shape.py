"""The shape of a resolved config, key by key. Every start reads it, so it imports nothing."""

from __future__ import annotations

KINDS = ("call", "run", "beam", "spark")  # of steps: each has exactly one of these keys, and all of STEP
CONFIG = frozenset(
    ("version", "resolved", "name", "store", "base", "code", "image", "backend", "backends", "secrets", "env", "steps")
)
# What kind of value the supervisor counts on; `object` where it takes what there is, and every list is one of strings.
STEP: dict[str, type | tuple[type, ...]] = {
    "args": dict,
    "inputs": dict,
    "outputs": list,
    "after": list,
    "parents": list,
    "as": object,
    "backend": object,
    "image": object,
    "resources": dict,
    "retry": dict,
    "timeout": (int, float, type(None)),  # seconds
    "grace_period": (int, float, type(None)),  # seconds
    "cache": object,
    "env": dict,
    "foreach": (dict, type(None)),
}
RESOURCES = frozenset(("cpu", "memory", "gpu", "gpu_memory", "cuda"))
RESOURCES_BEFORE = frozenset(("cpu", "memory", "gpu"))  # what stored configs of older versions have
RETRY = frozenset(("limit", "on", "backoff", "memory_factor"))
MEMBER: dict[str, type] = {"of": str, "index": int, "size": int, "item": object}  # a step's `foreach`, unless it is null
