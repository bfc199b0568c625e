"""The exit step as a KFP component: always runs, whatever became of the others."""

# No postponed annotations here: kfp reads the types from them.
from kfp import dsl
from kfp.dsl import Artifact, Output

from components.shared.container_images import image_of


@dsl.component(base_image=image_of("data-prep"), install_kfp_package=False)
def exit_step(
    params: str, job_id: str, job_name: str, status: dsl.PipelineTaskFinalStatus, end: Output[Artifact]
) -> None:
    """Report how the pipeline ended.

    Args:
        params: The run's params as one JSON text.
        job_id: The platform's id of this run.
        job_name: The platform's name of this run.
        status: What the platform says of the pipeline.
        end: How the pipeline ended, as JSON.
    """
    from functools import cache, partial
    from pathlib import Path

    from components.exit_step.step import report_end
    from components.shared.files import write_json
    from components.shared.run import run_of_placeholders, step_run
    from components.shared.step import metadata_of, run_step

    platform_run = run_of_placeholders(job_id, job_name)
    # Once, since each has a copy of a bucket's events, and where a wrong setting is reported.
    run = cache(partial(step_run, in_pipeline=True, artifact=end.uri, platform_run=platform_run))
    _, record = run_step(
        "exit",
        params,
        lambda checked, emit: report_end(
            state=status.state,
            run=run(),
            message=status.error_message or "",
            targets=checked.status_targets,
            credentials=checked.GOOGLE_APPLICATION_CREDENTIALS,
        ),
        run,
    )
    end.metadata.update(metadata_of(record, **record.report["steps"]))
    write_json(Path(end.path), record.report)
