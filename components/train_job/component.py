"""Training on several nodes as a KFP component: a thin face whose body runs inside the step's own image.

Its function is called as that of one node is, so that the task is ``train`` in either pipeline.
"""

# No postponed annotations here: kfp reads the artifact types from them.
from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Metrics, Model, Output, OutputPath

from components.shared.container_images import image_of


@dsl.component(base_image=image_of("train-job"), install_kfp_package=False)
def train(
    params: str,
    dataset_location: Input[Artifact],
    nodes: str,
    model: Output[Model],
    metrics: Output[Metrics],
    learning_curves: Output[HTML],
    model_sha256: OutputPath(str),  # type: ignore[valid-type] # kfp's notation
    dataset_sha256: str = "",
    checkpoints: str = "",
) -> None:
    """Train the network of the params on a dataset, on several nodes: by a TrainJob of Kubeflow Trainer.

    Args:
        params: The run's params as one JSON text.
        dataset_location: Where the dataset directory is, and its SHA-256, as JSON.
        nodes: What each node gets, as JSON.
        model: The model directory, which the nodes write.
        metrics: Held-out loss and accuracy of the chosen epoch.
        learning_curves: Loss, accuracy, learning rate and throughput of every epoch, as HTML.
        model_sha256: SHA-256 of the model's weights, by which a cache knows it again.
        dataset_sha256: SHA-256 of the dataset; another one is refused.
        checkpoints: Where checkpoints are kept: a path or a bucket's URI; auto: beside the run's artifacts; empty:
            beside the model.
    """
    from components.shared.step import metadata_of, scalars
    from components.train_job.step import TrainJobStep

    record = TrainJobStep(
        params=params,
        dataset_location=dataset_location.path,
        dataset_sha256=dataset_sha256,
        nodes=nodes,
        model=model.path,
        model_uri=model.uri,
        checkpoints=checkpoints,
        metrics=metrics.path,
        learning_curves=learning_curves.path,
        model_sha256=model_sha256,
    ).run()
    model.metadata.update(metadata_of(record, framework="pytorch"))
    for name, value in scalars(record.report["metrics"]).items():
        metrics.log_metric(name, value)
