"""All rules, in the order in which they are described, and looking at a file by them.

========================  ==============================================================================================
rule                      looks for
========================  ==============================================================================================
ir-schema                 what KFP's own parser does not take
dangling-reference        references to what is not there, and what nothing refers to
foreign-platform          a file, or part of it, for another platform
backend                   fields that older releases of Kubeflow Pipelines refuse
secret-value              values of secrets
unpinned-image            images without a digest
local-image               images that a cluster hardly can pull
params                    a default of ``params`` that is no valid params
numbers-in-struct         numbers that KFP changes
foreign-accelerator       accelerators by another platform's name
vertex-machine            what no machine of Vertex AI has
limits                    steps without limits, accelerators without a count, requests above limits
shared-memory             accelerators without shared memory, or too much of it
security                  steps that may run as root
pod-conflicts             what Kubernetes refuses in a pod
names                     names that the platform does not take
cached-side-effects       caching of steps that are run for what they do
retries                   retries that harm or do not help
checkpoint-place          checkpoints that die with the machine
data-place                data at a path that the step does not have
credentials-file          files of credentials that nothing mounts
vertex-limits             Vertex AI's limits
size                      a file larger than Kubernetes stores
========================  ==============================================================================================
"""

from __future__ import annotations

from components.shared.events.redaction import REDACTED, redact
from pipelines.compiled import CompiledPipeline, PlatformName
from pipelines.lint.backend import backend
from pipelines.lint.finding import Finding, Rule
from pipelines.lint.hardware import (
    foreign_accelerator,
    foreign_platform,
    limits,
    platform_of_accelerators,
    vertex_machine,
)
from pipelines.lint.images import local_image, unpinned_image
from pipelines.lint.names import names
from pipelines.lint.parameters import numbers_in_struct, params
from pipelines.lint.places import checkpoint_place, credentials_file, data_place
from pipelines.lint.pods import pod_conflicts, security, shared_memory
from pipelines.lint.secrets import secret_value, secret_values
from pipelines.lint.size import size
from pipelines.lint.structure import dangling_reference, ir_schema
from pipelines.lint.tasks import cached_side_effects, retries
from pipelines.lint.vertex import vertex_limits
from pipelines.lint.view import View

RULES: tuple[Rule, ...] = (
    Rule("ir-schema", "what KFP's own parser does not take", ir_schema),
    Rule("dangling-reference", "references to what is not there, and what nothing refers to", dangling_reference),
    Rule("foreign-platform", "a file, or part of it, for another platform", foreign_platform),
    Rule("backend", "fields that older releases of Kubeflow Pipelines refuse", backend),
    Rule("secret-value", "values of secrets", secret_value),
    Rule("unpinned-image", "images without a digest", unpinned_image),
    Rule("local-image", "images that a cluster hardly can pull", local_image),
    Rule("params", "a default of ``params`` that is no valid params", params),
    Rule("numbers-in-struct", "numbers that KFP changes", numbers_in_struct),
    Rule("foreign-accelerator", "accelerators by another platform's name", foreign_accelerator),
    Rule("vertex-machine", "what no machine of Vertex AI has", vertex_machine),
    Rule("limits", "steps without limits, accelerators without a count, requests above limits", limits),
    Rule("shared-memory", "accelerators without shared memory, or too much of it", shared_memory),
    Rule("security", "steps that may run as root", security),
    Rule("pod-conflicts", "what Kubernetes refuses in a pod", pod_conflicts),
    Rule("names", "names that the platform does not take", names),
    Rule("cached-side-effects", "caching of steps that are run for what they do", cached_side_effects),
    Rule("retries", "retries that harm or do not help", retries),
    Rule("checkpoint-place", "checkpoints that die with the machine", checkpoint_place),
    Rule("data-place", "data at a path that the step does not have", data_place),
    Rule("credentials-file", "files of credentials that nothing mounts", credentials_file),
    Rule("vertex-limits", "Vertex AI's limits", vertex_limits),
    Rule("size", "a file larger than Kubernetes stores", size),
)

# Shown in a message, a longer text would only hide what it says.
_LONGEST = 500


def lint(pipeline: CompiledPipeline, target: PlatformName | None) -> list[Finding]:
    """What is wrong with a compiled pipeline, ours or anyone's, or may be; errors first.

    Args:
        pipeline: As it was read.
        target: The platform that it shall run on; None: the one it says, or else any. What depends on the platform is
            then left out.
    """
    view = View(pipeline, target or target_of(pipeline))
    hidden = secret_values(view)

    def shown(words: str) -> str:
        for secret in hidden:
            words = words.replace(secret, REDACTED)
        # Of a foreign file nothing reaches a terminal that could steer it, or that no encoding has.
        words = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in redact(words))
        return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…"

    found = {
        Finding(rule.id, note.severity, shown(note.where), shown(note.message), shown(note.advice))
        for rule in RULES
        for note in rule.check(view)
    }
    order = {rule.id: index for index, rule in enumerate(RULES)}
    return sorted(found, key=lambda item: (item.severity != "error", order[item.rule], item.where, item.message))


def target_of(pipeline: CompiledPipeline) -> PlatformName | None:
    """The platform that a file is for, as it says or as the names of its accelerators do; None: neither tells."""
    return pipeline.target or platform_of_accelerators(View(pipeline, None))
