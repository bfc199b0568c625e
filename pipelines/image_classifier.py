"""The pipeline: data prep, train, evaluate, and an exit step that always runs. Wiring and nothing else."""

# No postponed annotations here: kfp reads the types from them.
from kfp import dsl

from components.data_prep.component import data_prep
from components.evaluate.component import evaluate
from components.exit_step.component import exit_step
from components.shared.run import PIPELINE_NAME
from components.train.component import train


@dsl.pipeline(name=PIPELINE_NAME, description="Trains an image classifier and evaluates it on held-out images.")
def image_classifier(params: str, data: str, checkpoints: str = "") -> None:
    """Train an image classifier.

    Args:
        params: Every option of the run as one JSON text.
        data: Folder of images or IDX files.
        checkpoints: Directory where training keeps its checkpoints; empty: beside the model.
    """
    last = exit_step(params=params, job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER, job_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER)
    last.set_display_name("exit")
    with dsl.ExitHandler(last, name="run"):
        prepared = data_prep(params=params, data=data).set_display_name("data prep")
        trained = train(params=params, dataset=prepared.outputs["dataset"], checkpoints=checkpoints)
        evaluate(params=params, model=trained.outputs["model"], dataset=prepared.outputs["dataset"])
