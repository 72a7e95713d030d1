"""Follows a job in the cluster to its end."""

from rich.console import Console

from finetune_api.run import ExitCode
from finetune_cli.errors import Exit
from finetune_cli.follow import View
from finetune_sdk import Job


def follow_job(job: Job, console: Console, timeout: float | None) -> int:
    """Show the job until it has finished; its exit code. Raises WaitTimeoutError."""
    try:
        with View(console) as view:
            for changed in job.changes(timeout):
                view.show(changed.body.get("status") or {})
    except KeyboardInterrupt:
        console.print(f"{job.name} goes on; finetune status {job.name} --follow follows it again")
        raise
    return exit_code_of(job)


def exit_code_of(job: Job) -> int:
    """0 for success; for a failure the trainer's exit code, or 1 if it gave none."""
    if job.succeeded:
        return Exit.DONE
    code = job.exit_code
    return code if code in list(ExitCode) and code else Exit.FAILED
