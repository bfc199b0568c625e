"""The pipeline: data prep, train, evaluate, publish, and an exit step that always runs. Wiring and nothing else."""

# No postponed annotations here: kfp reads the types from them.
from collections.abc import Callable
from typing import Any

from kfp import dsl

from components.data_prep.component import data_prep
from components.evaluate.component import evaluate
from components.exit_step.component import exit_step
from components.publish.component import publish
from components.shared.run import PIPELINE_NAME
from components.shared.step import StepName
from components.train.component import train

DESCRIPTION = "Trains an image classifier, evaluates it on held-out images, and publishes it if it passes the gate."

# Gets each step's task, to ask for resources, secrets, retries and the like.
Configure = Callable[[StepName, dsl.PipelineTask], object]


def pipeline_for(configure: Configure, nodes: str = "", shards: int = 1) -> Any:
    """The pipeline with its tasks configured.

    Where several `shards` share the decoding, a loop has each prepare a part, and the task data prep joins the parts.

    Where several nodes train, `nodes` is what each of them gets, as NodeSpec's JSON: the task train then has Kubeflow
    Trainer do it, data prep says where the dataset is, which that task's own pod needs no copy of, and the exit step
    ends a training that nobody waits for.

    Each artifact travels with its SHA-256. Kubeflow's cache knows input artifacts by their names alone, so without it
    training would be served from the cache for another dataset; and what arrives is checked against it.
    """
    if shards > 1:
        from components.data_prep.merge_component import data_prep as data_prep_of_parts
        from components.data_prep.part_component import data_prep_part
    if nodes:
        from components.data_prep.nodes_component import data_prep as data_prep_of_nodes
        from components.exit_step.nodes_component import exit_step as exit_step_of_nodes
        from components.train_job.component import train as train_job

    @dsl.pipeline(name=PIPELINE_NAME, display_name="Shutterline image classifier", description=DESCRIPTION)
    def image_classifier(params: str, data: str, checkpoints: str = "") -> None:
        """Train an image classifier.

        Args:
            params: Every option of the run as one JSON text.
            data: Images and their labels, a folder, archive or file: a path, gs://bucket/… or s3://bucket/….
            checkpoints: Where training keeps its checkpoints: gs://…, s3://…, a directory of a volume, or auto: beside
                the run's artifacts; empty: beside the model, until the machine ends.
        """
        last = (exit_step_of_nodes if nodes else exit_step)(
            params=params, job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER, job_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER
        )
        configure("exit", last.set_display_name("exit"))
        with dsl.ExitHandler(last, name="run"):
            if shards > 1:
                with dsl.ParallelFor(list(range(shards)), name="parts of data prep") as shard:
                    part = data_prep_part(params=params, data=data, shard=shard, shards=shards)
                    configure("data-prep", part.set_display_name("data prep part"))
                prepared = data_prep_of_parts(
                    params=params,
                    parts=dsl.Collected(part.outputs["part"]),
                    parts_sha256=dsl.Collected(part.outputs["part_sha256"]),
                )
            else:
                prepared = (data_prep_of_nodes if nodes else data_prep)(params=params, data=data)
            configure("data-prep", prepared.set_display_name("data prep"))
            dataset, dataset_sha256 = prepared.outputs["dataset"], prepared.outputs["dataset_sha256"]
            inputs = {"params": params, "dataset_sha256": dataset_sha256, "checkpoints": checkpoints}
            if nodes:
                trained = train_job(dataset_location=prepared.outputs["dataset_location"], nodes=nodes, **inputs)
            else:
                trained = train(dataset=dataset, **inputs)
            configure("train", trained.set_display_name("train"))
            evaluated = evaluate(
                params=params,
                model=trained.outputs["model"],
                model_sha256=trained.outputs["model_sha256"],
                dataset=dataset,
                dataset_sha256=dataset_sha256,
            )
            configure("evaluate", evaluated.set_display_name("evaluate"))
            with dsl.If(evaluated.outputs["Output"] == True):  # noqa: E712 - kfp compiles it
                published = publish(
                    params=params,
                    model=trained.outputs["model"],
                    model_sha256=trained.outputs["model_sha256"],
                    evaluation=evaluated.outputs["evaluation"],
                )
                configure("publish", published.set_display_name("publish"))

    return image_classifier


# As the local runner runs it, in processes of this installation.
image_classifier = pipeline_for(lambda step, task: None)
