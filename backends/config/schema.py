"""The types of a config, and the JSON Schema that editors use, made from the same types.

The types say which keys there are and what kind of value each takes. What is between them (names, references, durations, cycles)
is checked by the passes of ``backends.config.resolve``.
"""

# No `from __future__ import annotations` here: msgspec would have to evaluate every annotation again at each start.
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from backends.config.shape import KINDS
from backends.outcome import RETRIABLE

INTERNAL = ("resolved", "base", "parents", "gather")  # written by `resolve`, not by people
MOST_ITEMS = 10_000  # of one `foreach`; what one array job takes where there are such

# ECMA 262 patterns, as JSON Schema has them.
NAME = "^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$"
IDENTIFIER = "^[A-Za-z_][A-Za-z0-9_]*$"
FUNCTION = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"
DURATION = r"^\s*([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+\s*$"
MEMORY = r"^\s*[0-9]+(\.[0-9]+)?(([kKMGTPE]i?)|[eE]\+?[0-9]{1,3})?\s*$"
CPU = r"^\s*[0-9]+(\.[0-9]+)?m?\s*$"
CUDA = r"^\s*[1-9][0-9]?(\.[0-9]{1,2})?\s*$"


def _meta(description: str, *examples: object, **schema: object) -> Meta:
    return Meta(description=description, examples=list(examples) or None, extra_json_schema=schema or None)


class _Part(Struct, forbid_unknown_fields=True):
    """A mapping that takes only the keys it declares."""


_Seconds = float | Annotated[str, Meta(extra_json_schema={"pattern": DURATION})]
_Timeout = Annotated[
    _Seconds | UnsetType | None,
    _meta("The longest a step may run: seconds, or such as 90s, 1h30m or 2h; null for no end.", "2h"),
]
_GracePeriod = Annotated[
    _Seconds | UnsetType, _meta("From SIGTERM to SIGKILL when a step has to stop: seconds, or such as 30s.", "30s")
]
_Cache = Annotated[bool | UnsetType, _meta("Whether a result of the same step with the same inputs is used again.")]
_Env = Annotated[
    dict[str, str | int | float],
    _meta(
        "Environment variables. Nothing secret: that goes to `secrets`.",
        {"OMP_NUM_THREADS": "4"},
        propertyNames={"pattern": IDENTIFIER},
    ),
]


class Block(_Part):
    """A backend: its role, its class and that class's arguments."""

    type: Annotated[Literal["orchestrator", "processing", "training"], _meta("The backend's role.", "orchestrator")]
    source: Annotated[str, _meta("A registered short name, or package.module:Class.", "local")]
    args: Annotated[dict[str, Any], _meta("The backend's arguments.", {"max_parallel": 4})] = {}


class Secret(_Part):
    """Where a secret is found at run time; exactly one of the keys."""

    env: Annotated[str | UnsetType, _meta("An environment variable.", "API_KEY", pattern=IDENTIFIER)] = UNSET
    file: Annotated[str | UnsetType, _meta("A mounted file.", "/run/secrets/api-key")] = UNSET
    kubernetes: Annotated[
        str | UnsetType, _meta("A Kubernetes secret and its key.", "my-secret/api-key", pattern="^[^/]+/[^/]+$")
    ] = UNSET
    aws: Annotated[
        str | UnsetType,
        _meta(
            "The ARN of a secret or parameter.",
            "arn:aws:secretsmanager:eu-west-1:1:secret:api-key",
            pattern="^arn:[^:]+:[^:]+:.+$",
        ),
    ] = UNSET
    gcp: Annotated[
        str | UnsetType,
        _meta(
            "A Secret Manager resource.", "projects/p/secrets/api-key/versions/latest", pattern="^projects/[^/]+/secrets/[^/]+"
        ),
    ] = UNSET


class Retry(_Part):
    """When and how a failed step runs again."""

    limit: Annotated[int | UnsetType, _meta("How many times more; 2 by default.", 2, minimum=0, maximum=100)] = UNSET
    on: Annotated[
        list[str] | UnsetType,
        _meta("The classes of failure that are retried; infra and terminated by default.", ["infra", "oom"]),
    ] = UNSET
    backoff: Annotated[_Seconds | UnsetType, _meta("The wait before the first retry; doubled for each further one.", "1s")] = (
        UNSET
    )
    memory_factor: Annotated[
        float | UnsetType, _meta("What the memory is multiplied by after class oom.", 2, minimum=1, maximum=16)
    ] = UNSET


class Resources(_Part):
    """What a step's container gets."""

    cpu: Annotated[
        float | Annotated[str, Meta(extra_json_schema={"pattern": CPU})] | UnsetType | None,
        _meta("CPUs, such as 4, 0.5 or 500m; null for no limit.", 4),
    ] = UNSET
    memory: Annotated[
        int | float | Annotated[str, Meta(extra_json_schema={"pattern": MEMORY})] | UnsetType | None,
        _meta("Memory, such as 512Mi, 16Gi or a number of bytes; null for no limit.", "16Gi"),
    ] = UNSET
    gpu: Annotated[int | UnsetType, _meta("GPUs.", 1, minimum=0, maximum=1024)] = UNSET
    gpu_memory: Annotated[
        int | float | Annotated[str, Meta(extra_json_schema={"pattern": MEMORY})] | UnsetType | None,
        _meta("Free memory that each GPU must have, such as 16Gi or a number of bytes; null for any.", "16Gi"),
    ] = UNSET
    cuda: Annotated[
        int | float | Annotated[str, Meta(extra_json_schema={"pattern": CUDA})] | UnsetType | None,
        _meta('The CUDA version that the driver must support, such as "12.4"; null for that of the image.', "12.4"),
    ] = UNSET


class Output(_Part):
    """One step's output, as `resolve` writes it."""

    step: str
    output: str


class Input(_Part):
    """The long form of an input: from another step, or a path or URL."""

    from_: Annotated[str | UnsetType, _meta("Another step's output: STEP.OUTPUT.", "ingest.raw")] = field(
        default=UNSET, name="from"
    )
    url: Annotated[str | UnsetType, _meta("A path, from the config's directory, or a URL.", "./data.csv")] = UNSET
    step: Annotated[str | UnsetType, _meta("The step, where `output` is given too.", "ingest")] = UNSET
    output: Annotated[str | UnsetType, _meta("The step's output.", "raw")] = UNSET
    gather: list[Output] | UnsetType = UNSET


_Retry = Annotated[Retry | UnsetType, _meta("When a failed step runs again.", {"limit": 2, "on": ["infra", "oom"]})]
_Resources = Annotated[Resources | UnsetType, _meta("What a step's container gets.", {"cpu": 4, "memory": "16Gi", "gpu": 1})]
_Function = "; inputs, outputs and args come as keyword arguments."


class Step(_Part):
    """One step: exactly one of call, run, beam and spark."""

    call: Annotated[
        str | UnsetType, _meta("A Python function, package.module:function" + _Function, "penguins.clean:run", pattern=FUNCTION)
    ] = UNSET
    run: Annotated[
        list[str] | UnsetType,
        _meta("A program and its arguments; no shell.", ["python", "train.py", "{inputs.table}"], minItems=1),
    ] = UNSET
    beam: Annotated[
        str | UnsetType,
        _meta("A function that gets (pipeline, inputs, outputs), and args by name.", "flights.on_beam:build", pattern=FUNCTION),
    ] = UNSET
    spark: Annotated[
        str | UnsetType,
        _meta("A function that gets (spark, inputs, outputs), and args by name.", "flights.on_spark:run", pattern=FUNCTION),
    ] = UNSET
    args: Annotated[dict[str, Any], _meta("Arguments: any plain data, with placeholders in strings.", {"epochs": 3})] = {}
    inputs: Annotated[
        dict[str, str | Input],
        _meta("What the step reads: STEP.OUTPUT, or a path or URL (with a slash).", {"table": "clean.table"}),
    ] = {}
    outputs: Annotated[list[str], _meta("The names of what the step writes.", ["table"], uniqueItems=True)] = []
    foreach: Annotated[
        Any,
        _meta(
            "Run the step once for each item of a list, which {item} and {item.KEY} stand for.",
            ["adelie", "gentoo"],
            anyOf=[
                {"type": "array", "minItems": 1, "maxItems": MOST_ITEMS},
                {"type": "string", "pattern": r"^\{args\.[^{}]+\}$"},
                {"type": "null"},
            ],
        ),
    ] = None
    after: Annotated[list[str], _meta("Steps that must succeed first, beside those that `inputs` names.", ["ingest"])] = []
    parents: list[str] | UnsetType = UNSET
    as_: Annotated[
        Literal["path", "url"] | UnsetType,
        _meta("How the step gets inputs and outputs: local paths, or the store's URLs.", "url"),
    ] = field(default=UNSET, name="as")
    backend: Annotated[str | Block | None, _meta("A processing or training backend for this step.", "spark")] = None
    image: Annotated[str | UnsetType, _meta("The image for this step.", "my-image:1")] = UNSET
    resources: _Resources = UNSET
    retry: _Retry = UNSET
    timeout: _Timeout = UNSET
    grace_period: _GracePeriod = UNSET
    cache: _Cache = UNSET
    env: _Env = {}


class Config(_Part):
    """A zen-runner config, version 1."""

    version: Annotated[Literal[1], _meta("The version of this format.", 1)]
    steps: Annotated[
        dict[str, Step],
        _meta("The steps by name.", {"hello": {"run": ["echo", "hello"]}}, minProperties=1, propertyNames={"pattern": NAME}),
    ]
    resolved: bool = False
    base: str | None = None
    name: Annotated[str | UnsetType, _meta("The pipeline's name; the file's by default.", "penguins", pattern=NAME)] = UNSET
    store: Annotated[str, _meta("Where artifacts and records go: a directory, s3://, gs:// or az://.", "./runs")] = "./runs"
    image: Annotated[
        str | UnsetType,
        _meta("The image of steps that name none; else zen-runner:cpu, or the variant that the step needs.", "zen-runner:cpu"),
    ] = UNSET
    code: Annotated[
        str | None, _meta("The directory that is shipped to remote backends; null if it is baked into the image.", ".")
    ] = "."
    backend: Annotated[str | Block, _meta("The orchestrator: a name in `backends`, a short name, or a block.", "local")] = "local"
    backends: Annotated[
        dict[str, Block],
        _meta("Backends by name.", {"laptop": {"type": "orchestrator", "source": "local"}}, propertyNames={"pattern": NAME}),
    ] = {}
    secrets: Annotated[
        dict[str, Secret],
        _meta(
            "References to secrets, by the environment variable that the steps see.",
            {"API_KEY": {"env": "API_KEY"}},
            propertyNames={"pattern": IDENTIFIER},
        ),
    ] = {}
    env: _Env = {}
    resources: _Resources = UNSET
    retry: _Retry = UNSET
    timeout: _Timeout = UNSET
    grace_period: _GracePeriod = UNSET
    cache: _Cache = UNSET


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a config as people write it."""
    whole = msgspec.json.schema(Config)
    parts: dict[str, Any] = whole["$defs"]
    for part in parts.values():
        for key in INTERNAL:
            part.get("properties", {}).pop(key, None)
    parts["Step"]["oneOf"] = [{"required": [kind]} for kind in KINDS]
    parts["Secret"]["oneOf"] = [{"required": [key]} for key in parts["Secret"]["properties"]]
    parts["Input"]["oneOf"] = [{"required": ["from"]}, {"required": ["url"]}, {"required": ["step", "output"]}]
    parts["Step"]["properties"]["inputs"]["propertyNames"] = {"pattern": IDENTIFIER}
    parts["Step"]["properties"]["outputs"]["items"]["pattern"] = IDENTIFIER
    parts["Retry"]["properties"]["on"]["items"]["enum"] = list(RETRIABLE)
    top = parts.pop("Config")
    del parts["Output"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **top, "title": "zen-runner config", "$defs": parts}
