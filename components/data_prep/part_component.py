"""A part of data prep as a KFP component: one of several steps that share the decoding."""

# No postponed annotations here: kfp reads the artifact types from them.
from kfp import dsl
from kfp.dsl import Artifact, Output, OutputPath

from components.shared.container_images import image_of


@dsl.component(base_image=image_of("data-prep"), install_kfp_package=False)
def data_prep_part(
    params: str,
    data: str,
    shard: int,
    shards: int,
    part: Output[Artifact],
    part_sha256: OutputPath(str),  # type: ignore[valid-type] # kfp's notation
) -> None:
    """Decode a part of the images, for the step that joins the parts to a dataset.

    Args:
        params: The run's params as one JSON text.
        data: Images and their labels: a folder, an archive or a file, as a path or a bucket's URI.
        shard: Which part, from 0.
        shards: How many there are.
        part: The part's directory.
        part_sha256: Its SHA-256, by which a cache knows it again.
    """
    from pathlib import Path

    from components.data_prep.step import prepare_part_staged
    from components.shared.artifacts.artifact import manifest_digest
    from components.shared.artifacts.dataset_part import DATASET_PART
    from components.shared.run import step_run
    from components.shared.staging import addresses_of
    from components.shared.step import metadata_of, run_step
    from components.shared.storage.location import parse_location

    output = Path(part.path)
    _, record = run_step(
        "data-prep",
        params,
        lambda checked, emit: prepare_part_staged(
            data=parse_location(data), part=output, shard=(shard, shards), params=checked, emit=emit
        ),
        lambda: step_run(output, in_pipeline=True, artifact=part.uri),
        addresses_of((part.path, part.uri)),
        part=(shard, shards),
    )
    part.metadata.update(metadata_of(record))
    Path(part_sha256).write_text(manifest_digest(output, DATASET_PART), encoding="utf-8")
