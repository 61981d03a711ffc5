"""What Kubeflow Pipelines holds."""

from __future__ import annotations

from backends import names
from backends.config.transport import Limits

# "executor", "root" and "NAME-driver" are Argo's names of what Kubeflow adds; a task of that name could not be told from them.
TASK = names.Rule(63, names.LOWER + names.DIGITS + "-", names.LOWER + names.DIGITS, names.LOWER + names.DIGITS)
RESERVED = ("executor", "root", "entrypoint")
# A container's spec travels as one argument of Kubeflow's driver, and all of them in one object in etcd, which holds 1.5 MiB
# and has some of them three times: as the workflow's parameter, and as the output and the input of two of its nodes.
TASK_LIMITS = Limits(
    "a Kubeflow Pipelines task",
    98_304,
    as_json=True,
    total=262_144,
    source="kubeflow/pipelines, backend/src/v2/compiler/argocompiler/container.go, `--container`; execve(2), MAX_ARG_STRLEN; "
    "etcd, --max-request-bytes",
)
