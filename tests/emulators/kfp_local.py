"""Runs a rendered Kubeflow pipeline with kfp's own local runner, a container a task on the Docker Engine.

kfp.local keeps its state in the process, so each run has a process of its own: `python -m tests.emulators.kfp_local`.
It takes what Kubeflow takes, the documents of the IR, and does placeholders, dependencies and retries itself. Unlike Kubeflow
it appends the component's command to the image's ENTRYPOINT instead of replacing it, so that is emptied here. The containers get
the AWS_ variables of this process, as a service account or a secret gives them on a cluster.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run(
    documents: list[dict[str, Any]], folder: Path, seconds: float = 240, **parameters: Any
) -> subprocess.CompletedProcess[str]:
    """Run a pipeline to its end; the process ends with 0 if it succeeded.

    Args:
        documents: from ``render``.
        folder: where kfp may write.
        seconds: the time limit.
        parameters: of the pipeline.
    """
    import yaml

    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump_all(documents, sort_keys=False))
    arguments = [str(path), json.dumps(parameters), str(folder / "kfp")]
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.emulators.kfp_local", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )


def main() -> None:
    from kfp import components, local

    path, parameters, folder = sys.argv[1:]
    # The host's network: moto listens on its loopback interface.
    environ = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    runner = local.DockerRunner(entrypoint=[""], network_mode="host", environment=environ)
    local.init(runner=runner, pipeline_root=folder, workspace_root=f"{folder}-workspace")
    components.load_component_from_file(path)(**json.loads(parameters))


if __name__ == "__main__":
    main()
