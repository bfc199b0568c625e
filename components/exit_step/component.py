"""The exit step as a KFP component: always runs, whatever became of the others."""

# No postponed annotations here: kfp reads the types from them.
from kfp import dsl

from components.shared.images import image_of


@dsl.component(base_image=image_of("data-prep"), install_kfp_package=False)
def exit_step(params: str, status: dsl.PipelineTaskFinalStatus) -> None:
    """Report how the pipeline ended.

    Args:
        params: The run's params as one JSON text.
        status: What the platform says of the pipeline.
    """
    from components.exit_step.report import report_end
    from components.shared.step import run_step

    run_step(
        "exit",
        params,
        lambda checked: report_end(state=status.state, message=status.error_message or ""),
    )
