"""Training as a KFP component: a thin face whose body runs inside the step's own image."""

# No postponed annotations here: kfp reads the artifact types from them.
from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components.shared.images import image_of


@dsl.component(base_image=image_of("train"), install_kfp_package=False)
def train(
    params: str,
    dataset: Input[Dataset],
    model: Output[Model],
    metrics: Output[Metrics],
    checkpoints: str = "",
) -> None:
    """Train the network of the params on a dataset.

    Args:
        params: The run's params as one JSON text.
        dataset: The dataset directory.
        model: The model directory.
        metrics: Held-out loss and accuracy of the chosen epoch.
        checkpoints: Where checkpoints are kept: a path or a bucket's URI; empty: beside the model.
    """
    from pathlib import Path

    from components.shared.run import run_of_artifact, step_run
    from components.shared.step import run_step
    from components.shared.storage.location import place
    from components.train.staged import train_staged

    result, record = run_step(
        "train",
        params,
        lambda checked, emit: train_staged(
            dataset=Path(dataset.path),
            model=Path(model.path),
            params=checked,
            checkpoints=place(checkpoints) if checkpoints else None,
            emit=emit,
        ),
        lambda: step_run(Path(model.path), in_pipeline=True, platform_run=run_of_artifact(model.uri)),
    )
    report = result.report()
    model.metadata.update(report | {"framework": "pytorch", "seconds": record.seconds, "status": record.delivery})
    for name, value in report["metrics"].items():
        metrics.log_metric(name, value)
