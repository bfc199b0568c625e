"""Prediction as a KFP component: a thin face whose body runs inside the step's own image."""

# No postponed annotations here: kfp reads the artifact types from them.
from kfp import dsl
from kfp.dsl import Artifact, Input, Model, Output

from components.shared.container_images import image_of


@dsl.component(base_image=image_of("predict"), install_kfp_package=False)
def predict(
    model: Input[Model],
    data: str,
    predictions: Output[Artifact],
    params: str = "",
    top_k: int = 3,
    format: str = "csv",
) -> None:
    """Predict the classes of image files.

    Args:
        model: The model directory.
        data: An image file, or a folder of them: a path or a bucket's URI.
        predictions: The predictions, a file of a row an image.
        params: The run's params as one JSON text, for its device and status; empty: the CPU or a GPU, no status.
        top_k: Classes of each image, the most probable first.
        format: csv or jsonl.
    """
    from pathlib import Path

    from components.predict.rows import as_format
    from components.predict.step import PredictResult, predict_staged
    from components.shared.events.data import Emit, ignore_events
    from components.shared.params.params import Params
    from components.shared.run import step_run
    from components.shared.staging import addresses_of
    from components.shared.step import metadata_of, run_step, run_without_params
    from components.shared.storage.location import parse_location

    output = Path(predictions.path)

    def work(checked: Params | None = None, emit: Emit = ignore_events) -> PredictResult:
        return predict_staged(
            model=Path(model.path),
            images=[parse_location(data)],
            output=output,
            form=as_format(format),
            top_k=top_k,
            params=checked,
            emit=emit,
        )

    addresses = addresses_of((model.path, model.uri), (predictions.path, predictions.uri))
    if params:
        _, record = run_step("predict", params, work, lambda: step_run(output, artifact=predictions.uri), addresses)
    else:
        _, record = run_without_params("predict", work, addresses)
    predictions.metadata.update(metadata_of(record))
