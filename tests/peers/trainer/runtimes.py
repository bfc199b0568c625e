"""The TrainingRuntimes of the server: Trainer's own for torch, and the one that this project ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

# Of Jobs and pods it leaves everything to its defaults: JobSet's restartPolicy OnFailure, Kubernetes' backoffLimit 6.
STOCK: dict[str, Any] = {
    "metadata": {"name": "torch-distributed", "labels": {"trainer.kubeflow.org/framework": "torch"}},
    "spec": {
        "mlPolicy": {"numNodes": 1, "torch": {}},
        "template": {
            "spec": {
                "replicatedJobs": [
                    {
                        "name": "node",
                        "template": {
                            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
                            "spec": {"template": {"spec": {"containers": [{"name": "node", "image": "pytorch"}]}}},
                        },
                    }
                ]
            }
        },
    },
}
OURS: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[3] / "pipelines" / "examples" / "trainer" / "runtime.yaml").read_text("utf-8")
)
