"""Training as a KFP component: a thin face whose body runs inside the step's own image."""

# No postponed annotations here: kfp reads the artifact types from them.
from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output, OutputPath

from components.shared.container_images import image_of


@dsl.component(base_image=image_of("train"), install_kfp_package=False)
def train(
    params: str,
    dataset: Input[Dataset],
    model: Output[Model],
    metrics: Output[Metrics],
    learning_curves: Output[HTML],
    model_sha256: OutputPath(str),  # type: ignore[valid-type] # kfp's notation
    dataset_sha256: str = "",
    checkpoints: str = "",
) -> None:
    """Train the network of the params on a dataset.

    Args:
        params: The run's params as one JSON text.
        dataset: The dataset directory.
        model: The model directory.
        metrics: Held-out loss and accuracy of the chosen epoch.
        learning_curves: Loss, accuracy, learning rate and throughput of every epoch, as HTML.
        model_sha256: SHA-256 of the model's weights, by which a cache knows it again.
        dataset_sha256: SHA-256 of the dataset; another one is refused.
        checkpoints: Where checkpoints are kept: a path or a bucket's URI; auto: beside the run's artifacts; empty:
            beside the model.
    """
    from components.shared.step import metadata_of, scalars
    from components.train.step import PipelineStep

    record = PipelineStep(
        params=params,
        dataset=dataset.path,
        dataset_uri=dataset.uri,
        dataset_sha256=dataset_sha256,
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
