"""Which releases of Kubeflow Pipelines take what is compiled: by the field, the first one that knows it."""

from __future__ import annotations

OLDEST_BACKEND = "2.15.0"

# The API server refuses a file for a field that it does not know. Fields that are not here are known to 2.15.0 already.
# From github.com/kubeflow/pipelines at the tags 2.15.0, 2.16.0, 2.16.1 and 2.17.0: api/v2alpha1/pipeline_spec.proto and
# kubernetes_platform/proto/kubernetes_executor_config.proto. tests/pipelines/kfp_fields.json has all fields of each.
FIRST_BACKEND = {
    "ComponentInputsSpec.ParameterSpec.literals": "2.16.0",
    "KubernetesExecutorConfig.security_context": "2.16.0",
    "PvcMount.sub_path": "2.16.0",
    "PipelineConfig.active_deadline_seconds": "2.17.0",
    "PipelineConfig.resource_ttl_on_completion": "2.17.0",
    "PipelineConfig.resource_ttl_on_failure": "2.17.0",
    "PipelineConfig.resource_ttl_on_success": "2.17.0",
}
