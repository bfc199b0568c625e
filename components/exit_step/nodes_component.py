"""The exit step as a KFP component where several nodes train: it also ends a training that nobody waits for."""

# No postponed annotations here: kfp reads the artifact types from them.
from kfp import dsl
from kfp.dsl import Artifact, Output

from components.shared.container_images import image_of


@dsl.component(base_image=image_of("train-job"), install_kfp_package=False)
def exit_step(
    params: str, job_id: str, job_name: str, status: dsl.PipelineTaskFinalStatus, end: Output[Artifact]
) -> None:
    """Report how the pipeline ended, and delete a TrainJob that is left.

    Args:
        params: The run's params as one JSON text.
        job_id: The platform's id of this run.
        job_name: The platform's name of this run.
        status: What the platform says of the pipeline.
        end: How the pipeline ended, as JSON.
    """
    import subprocess
    import sys
    from functools import cache, partial
    from pathlib import Path

    from components.exit_step.step import report_end
    from components.shared.events.data import Emit
    from components.shared.files import write_json
    from components.shared.params.params import Params
    from components.shared.run import run_of_placeholders, step_run
    from components.shared.step import Reported, metadata_of, run_step

    platform_run = run_of_placeholders(job_id, job_name)
    # Once, since each has a copy of a bucket's events, and where a wrong setting is reported.
    run = cache(partial(step_run, in_pipeline=True, artifact=end.uri, platform_run=platform_run))

    def work(checked: Params, emit: Emit) -> Reported:
        if status.state not in ("COMPLETE", "SUCCEEDED"):  # then every step has ended, and its TrainJob before
            # A process of its own: the step that reports holds nothing of Kubernetes.
            command = [sys.executable, "-m", "components.train_job.leftover", run().run]
            subprocess.run(command, check=False)  # noqa: S603 - our own interpreter and module
        return report_end(
            state=status.state,
            run=run(),
            message=status.error_message or "",
            targets=checked.status_targets,
            credentials=checked.GOOGLE_APPLICATION_CREDENTIALS,
        )

    _, record = run_step("exit", params, work, run)
    end.metadata.update(metadata_of(record, **record.report["steps"]))
    write_json(Path(end.path), record.report)
