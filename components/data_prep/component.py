"""Data prep as a KFP component: a thin face whose body runs inside the step's own image."""

# No postponed annotations here: kfp reads the artifact types from them.
from kfp import dsl
from kfp.dsl import Dataset, Output

from components.shared.images import image_of


@dsl.component(base_image=image_of("data-prep"), install_kfp_package=False)
def data_prep(params: str, data: str, dataset: Output[Dataset]) -> None:
    """Make a dataset directory from images: resized, split, checked.

    Args:
        params: The run's params as one JSON text.
        data: Folder of images or IDX files.
        dataset: The dataset directory.
    """
    from pathlib import Path

    from components.data_prep.prepare import prepare
    from components.shared.step import run_step

    result, record = run_step(
        "data-prep", params, lambda checked: prepare(data=Path(data), dataset=Path(dataset.path), params=checked)
    )
    dataset.metadata.update(result.report() | {"seconds": record.seconds})
