"""A compiled step as a custom job of Vertex AI: the same container on each of several machines.

What a custom job is asked for is ``CustomJob`` of Vertex AI's API, ``google.cloud.aiplatform_v1.types``. How a compiled
pipeline asks for one is what google-cloud-pipeline-components 2.22.0 compiles (``v1/custom_job``, ``utils.py``): a
container of Google's image with the job as JSON. None of it was tried on Vertex AI.
"""

from __future__ import annotations

import json
from typing import Any

from pipelines.settings.vertex import VertexTrain

# With Google's own tag: by the name Vertex AI knows the step, and starts no container for it.
LAUNCHER_IMAGE = "gcr.io/ml-pipeline/google-cloud-pipeline-components:2.22.0"
_MODULE = "google_cloud_pipeline_components.container.v1.custom_job.launcher"
_RESOURCES = "gcp_resources"  # the output by which the launcher, if it is started again, finds its job
# What kfp marks the step's inputs and outputs by in a container's arguments, and inside of JSON.
_INPUTS, _INPUTS_IN_JSON = "{{$}}", "{{$.json_escape[1]}}"


def run_as_custom_job(document: dict[str, Any], step: str, settings: VertexTrain) -> None:
    """Have a step of a compiled pipeline run as a custom job, whose first pool is one machine, which reports.

    Args:
        document: The pipeline spec, which is changed.
        step: The step's name, as in ``exec-STEP`` and ``comp-STEP``.
        settings: What each machine gets.
    """
    executor, component = (
        document["deploymentSpec"]["executors"][f"exec-{step}"],
        document["components"][f"comp-{step}"],
    )
    job = _custom_job(f"shutterline-{step}", executor["container"], settings)
    executor["container"] = {
        "image": LAUNCHER_IMAGE,
        "command": ["python3", "-u", "-m", _MODULE],
        "args": [
            *("--type", "CustomJob"),
            *("--payload", json.dumps(job, sort_keys=True)),
            *("--project", "{{$.pipeline_google_cloud_project_id}}"),
            *("--location", "{{$.pipeline_google_cloud_location}}"),
            *("--gcp_resources", f"{{{{$.outputs.parameters['{_RESOURCES}'].output_file}}}}"),
        ],
    }
    component["outputDefinitions"]["parameters"][_RESOURCES] = {"parameterType": "STRING"}


def _custom_job(name: str, container: dict[str, Any], settings: VertexTrain) -> dict[str, Any]:
    """The job, in the names of Vertex AI's Python client, which the launcher hands it to."""
    accelerator, nodes = settings.accelerates, settings.nodes or 1
    machine: dict[str, Any] = {"machine_type": settings.machine}
    if accelerator:
        machine |= {"accelerator_type": accelerator.type, "accelerator_count": accelerator.count}
    pool = {
        "machine_spec": machine,
        "container_spec": {
            "image_uri": container["image"],
            "command": container["command"],
            "args": [_INPUTS_IN_JSON if word == _INPUTS else word for word in container["args"]],
            "env": container["env"],
        },
    }
    return {
        "display_name": name,
        "job_spec": {
            "worker_pool_specs": [{**pool, "replica_count": count} for count in (1, nodes - 1)],
            # A machine that is lost and replaced finds no group any more; all begin anew, from the last checkpoint.
            "scheduling": {"restart_job_on_worker_restart": True},
            # The run's own. Without an account it would be Google's, which reads no bucket of another project, no
            # secret and no topic.
            "service_account": "{{$.pipeline_service_account}}",
            "network": "{{$.pipeline_network}}",
            "persistent_resource_id": "{{$.pipeline_persistent_resource_id}}",
        },
        "encryption_spec": {"kms_key_name": "{{$.pipeline_encryption_key_name}}"},
    }
