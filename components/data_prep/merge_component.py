"""The end of data prep as a KFP component where several steps share the decoding: it joins their parts."""

# No postponed annotations here: kfp reads the artifact types from them.
from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Output, OutputPath

from components.shared.container_images import image_of


@dsl.component(base_image=image_of("data-prep"), install_kfp_package=False)
def data_prep(
    params: str,
    parts: Input[list[Artifact]],
    parts_sha256: list[str],
    dataset: Output[Dataset],
    dataset_location: Output[Artifact],
    report: Output[HTML],
    dataset_sha256: OutputPath(str),  # type: ignore[valid-type] # kfp's notation
) -> None:
    """Make a dataset directory of its parts: the one that a single step makes.

    Args:
        params: The run's params as one JSON text.
        parts: The parts, in any order.
        parts_sha256: The SHA-256 of each, by which a cache knows them again.
        dataset: The dataset directory.
        dataset_location: Where that is kept, and its SHA-256, as JSON; where several nodes train, they read it.
        report: What was found in the data: leakage, duplicates, odd images, every class.
        dataset_sha256: Its SHA-256, by which a cache knows it again.
    """
    import shutil
    from dataclasses import replace
    from pathlib import Path

    from components.data_prep.quality.inspection import PAGE
    from components.data_prep.step import merge_staged
    from components.shared.artifacts.artifact import manifest_digest
    from components.shared.artifacts.dataset import DATASET
    from components.shared.files import write_json
    from components.shared.run import step_run
    from components.shared.staging import addresses_of
    from components.shared.step import metadata_of, run_step, scalars

    output, paths = Path(dataset.path), [Path(part.path) for part in parts]
    _, record = run_step(
        "data-prep",
        params,
        lambda checked, emit: merge_staged(
            parts=paths, digests=parts_sha256, dataset=output, params=checked, emit=emit
        ),
        lambda: replace(step_run(output, in_pipeline=True, artifact=dataset.uri), joins=True),
        addresses_of(*((each.path, each.uri) for each in (dataset, *parts))),
    )
    dataset.metadata.update(metadata_of(record))
    report.metadata.update(scalars(record.report["findings"]))
    shutil.copyfile(output / PAGE, report.path)
    digest = manifest_digest(output, DATASET)
    Path(dataset_sha256).write_text(digest, encoding="utf-8")
    write_json(Path(dataset_location.path), {"uri": dataset.uri, "sha256": digest})
