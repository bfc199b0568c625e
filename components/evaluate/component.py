"""Evaluation as a KFP component: a thin face whose body runs inside the step's own image."""

# No postponed annotations here: kfp reads the artifact types from them.
from kfp import dsl
from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Input, Markdown, Metrics, Model, Output, OutputPath

from components.shared.container_images import image_of


@dsl.component(base_image=image_of("evaluate"), install_kfp_package=False)
def evaluate(
    params: str,
    model: Input[Model],
    dataset: Input[Dataset],
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
    confusion: Output[ClassificationMetrics],
    roc: Output[ClassificationMetrics],
    report: Output[HTML],
    summary: Output[Markdown],
    predictions: Output[Artifact],
    passed: OutputPath(bool),  # type: ignore[valid-type] # kfp's notation
    model_sha256: str = "",
    dataset_sha256: str = "",
) -> bool:
    """Evaluate a model on the test split of a dataset.

    Args:
        params: The run's params as one JSON text.
        model: The model directory.
        dataset: The dataset directory.
        evaluation: The evaluation directory: figures, predictions, report.
        metrics: Figures over all images, by scikit-learn's names.
        confusion: The confusion matrix.
        roc: The ROC curve, mean of all classes each against the rest.
        report: The HTML report.
        summary: The figures that decide, for people.
        predictions: Every image's classes and confidence, as CSV.
        passed: Whether the model passes the gate; without one every model does.
        model_sha256: SHA-256 of the model's weights; other ones are refused.
        dataset_sha256: SHA-256 of the dataset; another one is refused.

    Returns:
        Whether it is published next: it passes, and the params say where to. A return value, whose name is Output,
        since kfp 2.17's local runner takes a condition on an output of any other name for false.
    """
    from pathlib import Path

    from components.evaluate.evaluate import EvaluateResult
    from components.evaluate.evaluate import evaluate as run_evaluation
    from components.evaluate.outputs import write_outputs
    from components.shared.artifacts.artifact import manifest_digest, read_manifest, require_same
    from components.shared.artifacts.dataset import DATASET
    from components.shared.artifacts.model import MODEL
    from components.shared.events.data import Emit
    from components.shared.params.params import Params
    from components.shared.run import step_run
    from components.shared.staging import addresses_of
    from components.shared.step import metadata_of, run_step

    def work(checked: Params, emit: Emit) -> EvaluateResult:
        require_same(MODEL, read_manifest(Path(model.path), MODEL).weights.sha256, model_sha256)
        require_same(DATASET, manifest_digest(Path(dataset.path), DATASET), dataset_sha256)
        return run_evaluation(
            model=Path(model.path),
            dataset=Path(dataset.path),
            evaluation=Path(evaluation.path),
            params=checked,
            emit=emit,
        )

    result, record = run_step(
        "evaluate",
        params,
        work,
        lambda: step_run(Path(evaluation.path), in_pipeline=True, artifact=evaluation.uri),
        addresses_of(*((artifact.path, artifact.uri) for artifact in (model, dataset, evaluation))),
    )
    evaluation.metadata.update(metadata_of(record))
    outputs = write_outputs(
        result,
        metrics=Path(metrics.path),
        confusion=Path(confusion.path),
        roc=Path(roc.path),
        report=Path(report.path),
        summary=Path(summary.path),
        predictions=Path(predictions.path),
    )
    for name, value in outputs.metrics.items():
        metrics.log_metric(name, value)
    if outputs.confusion is not None:
        confusion.log_confusion_matrix(*outputs.confusion)
    if outputs.roc is not None:
        roc.log_roc_curve(*outputs.roc)
    # As KFP's launcher reads a boolean.
    Path(passed).write_text(str(result.findings.passed).lower(), encoding="utf-8")
    return result.publish
