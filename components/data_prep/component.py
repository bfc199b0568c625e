"""Data prep as a KFP component: a thin face whose body runs inside the step's own image."""

# No postponed annotations here: kfp reads the artifact types from them.
from kfp import dsl
from kfp.dsl import HTML, Dataset, Output, OutputPath

from components.shared.container_images import image_of


@dsl.component(base_image=image_of("data-prep"), install_kfp_package=False)
def data_prep(
    params: str,
    data: str,
    dataset: Output[Dataset],
    report: Output[HTML],
    dataset_sha256: OutputPath(str),  # type: ignore[valid-type] # kfp's notation
) -> None:
    """Make a dataset directory from images: resized, split, checked.

    Args:
        params: The run's params as one JSON text.
        data: Images and their labels: a folder, an archive or a file, as a path or a bucket's URI.
        dataset: The dataset directory.
        report: What was found in the data: leakage, duplicates, odd images, every class.
        dataset_sha256: Its SHA-256, by which a cache knows it again.
    """
    import shutil
    from pathlib import Path

    from components.data_prep.quality.inspection import PAGE
    from components.data_prep.step import prepare_staged
    from components.shared.artifacts.artifact import manifest_digest
    from components.shared.artifacts.dataset import DATASET
    from components.shared.run import step_run
    from components.shared.staging import addresses_of
    from components.shared.step import metadata_of, run_step, scalars
    from components.shared.storage.location import parse_location

    output = Path(dataset.path)
    _, record = run_step(
        "data-prep",
        params,
        lambda checked, emit: prepare_staged(data=parse_location(data), dataset=output, params=checked, emit=emit),
        lambda: step_run(output, in_pipeline=True, artifact=dataset.uri),
        addresses_of((dataset.path, dataset.uri)),
    )
    dataset.metadata.update(metadata_of(record))
    report.metadata.update(scalars(record.report["findings"]))
    shutil.copyfile(output / PAGE, report.path)
    Path(dataset_sha256).write_text(manifest_digest(output, DATASET), encoding="utf-8")
