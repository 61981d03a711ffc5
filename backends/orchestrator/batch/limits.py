"""What AWS Batch holds: the numbers of its API and of its quotas."""

from __future__ import annotations

from backends import names
from backends.config.transport import Limits

NAME = names.Rule(128, names.LETTERS + names.DIGITS + "-_", names.LETTERS + names.DIGITS, names.LETTERS + names.DIGITS + "-_")
"""Jobs and job definitions. Source: AWS Batch API, SubmitJob ``jobName`` and RegisterJobDefinition ``jobDefinitionName``."""
OVERRIDES = Limits(
    "an AWS Batch job's overrides",
    8_192,
    as_json=True,
    source="Amazon ECS API, RunTask, `overrides`: 8,192 characters in all, JSON's own included",
)
MOST_PARENTS = 20
"""Jobs that one job can depend on. Source: AWS Batch API, SubmitJob ``dependsOn``."""
SHORTEST_TIMEOUT = 60
"""Seconds. Source: AWS Batch API, ``JobTimeout``."""
MOST_ATTEMPTS = 10
"""Source: AWS Batch API, ``RetryStrategy``."""
MOST_RULES = 5
"""Source: AWS Batch API, ``RetryStrategy``: ``evaluateOnExit``."""
MOST_TAGS = 50
"""Source: AWS Batch API, ``propagateTags``: those of the job and of its definition together."""
EPHEMERAL = (21, 200)
"""GiB on Fargate. Source: AWS Batch API, ``EphemeralStorage``."""
JOB_SIZE, DEFINITION_SIZE = 30 * 1024, 24 * 1024
"""Bytes. Source: AWS Batch, "Service quotas": maximum job payload size, maximum job definition size."""
BATCHS_OWN = 1024
"""Characters of a container's overrides that are left for the variables that Batch itself puts there: ids, queue, environment."""
AROUND = 600
"""Seconds that an attempt may take beside its step's timeout and grace period: inputs are fetched, outputs published."""
# MiB by vCPU. Source: AWS Batch API, ``ResourceRequirement``.
FARGATE: dict[float, tuple[int, ...]] = {
    0.25: (512, 1024, 2048),
    0.5: (1024, 2048, 3072, 4096),
    1: tuple(range(2048, 8193, 1024)),
    2: tuple(range(4096, 16385, 1024)),
    4: tuple(range(8192, 30721, 1024)),
    8: tuple(range(16384, 61441, 4096)),
    16: tuple(range(32768, 122881, 8192)),
    32: (61440, 122880, 249856),
}
DESCRIBED = 100
"""Jobs in one call. Source: AWS Batch API, DescribeJobs ``jobs``, and ListJobs ``maxResults`` with a filter."""
