"""Evaluation as a KFP component: a thin face whose body runs inside the step's own image."""

# No postponed annotations here: kfp reads the artifact types from them.
from kfp import dsl
from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Input, Metrics, Model, Output

from components.shared.container_images import image_of


@dsl.component(base_image=image_of("evaluate"), install_kfp_package=False)
def evaluate(
    params: str,
    model: Input[Model],
    dataset: Input[Dataset],
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
    confusion: Output[ClassificationMetrics],
    report: Output[HTML],
    model_sha256: str = "",
    dataset_sha256: str = "",
) -> None:
    """Evaluate a model on the test split of a dataset.

    Args:
        params: The run's params as one JSON text.
        model: The model directory.
        dataset: The dataset directory.
        evaluation: The evaluation directory: figures, predictions, report.
        metrics: Figures over all images, by scikit-learn's names.
        confusion: The confusion matrix.
        report: The HTML report.
        model_sha256: SHA-256 of the model's weights; other ones are refused.
        dataset_sha256: SHA-256 of the dataset; another one is refused.
    """
    import shutil
    from pathlib import Path

    from components.evaluate.evaluate import EvaluateResult
    from components.evaluate.evaluate import evaluate as run_evaluation
    from components.shared.artifacts.artifact import manifest_digest, read_manifest, require_same
    from components.shared.artifacts.dataset import DATASET
    from components.shared.artifacts.model import MODEL
    from components.shared.events.data import Emit
    from components.shared.files import write_json
    from components.shared.params.params import Params
    from components.shared.run import step_run
    from components.shared.staging import addresses_of
    from components.shared.step import metadata_of, run_step, scalars

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
    findings = result.findings
    figures = scalars(findings.metrics)
    for name, value in figures.items():
        metrics.log_metric(name, value)
    # In the store too, not in the platform's metadata alone; kfp's local cache takes an output without a file for lost.
    write_json(Path(metrics.path), figures)
    matrix = findings.confusion().tolist() if len(findings.classes) <= 100 else None
    write_json(Path(confusion.path), {"classes": len(findings.classes), "confusion": matrix})
    if matrix is not None:  # it travels as metadata, and no UI draws a larger one
        confusion.log_confusion_matrix(findings.classes, matrix)
    evaluation.metadata.update(metadata_of(record))
    shutil.copyfile(result.report_file, report.path)
