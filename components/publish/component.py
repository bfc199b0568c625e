"""Publishing as a KFP component: a thin face whose body runs inside evaluation's image."""

# No postponed annotations here: kfp reads the artifact types from them.
from kfp import dsl
from kfp.dsl import Artifact, Input, Markdown, Model, Output, OutputPath

from components.shared.container_images import image_of


@dsl.component(base_image=image_of("evaluate"), install_kfp_package=False)
def publish(
    params: str,
    model: Input[Model],
    evaluation: Input[Artifact],
    model_card: Output[Markdown],
    published: OutputPath(str),  # type: ignore[valid-type] # kfp's notation
    model_sha256: str = "",
) -> None:
    """Publish a model that passed the gate, with its evaluation and a model card.

    Args:
        params: The run's params as one JSON text.
        model: The model directory.
        evaluation: The evaluation directory of that model.
        model_card: What the model is, for people.
        published: Where it was published: publish_uri and its version.
        model_sha256: SHA-256 of the model's weights; other ones are refused.
    """
    from pathlib import Path

    from components.publish.step import publish_in_pipeline
    from components.shared.run import step_run
    from components.shared.staging import addresses_of
    from components.shared.step import metadata_of, run_step

    _, record = run_step(
        "publish",
        params,
        lambda checked, emit: publish_in_pipeline(
            model=Path(model.path),
            model_sha256=model_sha256,
            evaluation=Path(evaluation.path),
            card=Path(model_card.path),
            params=checked,
            emit=emit,
        ),
        lambda: step_run(Path(model_card.path), in_pipeline=True, artifact=model_card.uri),
        addresses_of(*((artifact.path, artifact.uri) for artifact in (model, evaluation, model_card))),
    )
    model_card.metadata.update(metadata_of(record))
    Path(published).write_text(record.report["published"], encoding="utf-8")
