"""A search or an ensemble: its trials or members, and what they reach."""

from collections.abc import Iterator

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import panels
from grafana.panels import BLUE, GREEN, GREY, PURPLE, RED, YELLOW, Query, steps

JOB = 'namespace="$namespace",name="$job"'
CHILDREN = 'namespace="$namespace",name=~"$job-[0-9a-f]{8}-[tcm].+"'
"""Trials, repetitions and members, by their names: JOB-UID8-t012, -c1s2, -m3."""
STATES = {
    "Running": BLUE,
    "Succeeded": GREEN,
    "Pruned": PURPLE,
    "Failed": RED,
    "Stopped": YELLOW,
    "Deleted": GREY,
}


def of_job(metric: str) -> str:
    """What the operator says of the search or ensemble."""
    return f"max(finetune_{metric}{{{JOB}}})"


def run(metric: str) -> str:
    """What the trainers of trials and members say, by the end of the run's name: t012, c1s2, m3."""
    series = f"finetune_{metric}{{{CHILDREN}}}"
    return f'max by (run) (label_replace({series}, "run", "$1", "name", ".+-(.+)"))'


def dashboard() -> Dashboard:
    """Numbers first, then the trials, then the ensemble."""
    made = panels.dashboard(
        "finetune-search",
        "Fine-tuning / Search and ensemble",
        "A search for hyperparameters or an ensemble: trials, members, the best value and what it cost.",
        period="now-3h",
    )
    parents = 'finetune_job_info{namespace="$namespace",kind=~"Search|Ensemble"}'
    made = made.with_variable(
        panels.variable(
            "namespace", "Namespace", 'label_values(finetune_job_info{kind=~"Search|Ensemble"}, namespace)'
        )
    ).with_variable(panels.variable("job", "Job", f"label_values({parents}, name)"))
    parts = {"": _numbers(), "Trials": _trials(), "Ensemble": _ensemble()}
    return panels.assemble(made, parts)


def _numbers() -> Iterator[Builder[Panel]]:
    yield panels.number(
        "Done",
        "Share of the trials or members that have ended.",
        "percentunit",
        Query(of_job("job_progress_ratio")),
        colors=steps(GREY, (0, BLUE)),
    )
    yield panels.number(
        "Planned trials",
        "Trials that the search will run.",
        "short",
        Query(of_job("search_trials_planned")),
        absent="–",
    )
    yield panels.number(
        "Best value",
        "Of the metric that trials are compared by.",
        "short",
        Query(f"max by (metric) (finetune_search_best_value{{{JOB}}})", "{{metric}}"),
        absent="–",
        colors=steps(GREY, (-1e9, GREEN)),
    )
    yield panels.number(
        "Failed",
        "Trials or members that failed.",
        "short",
        Query(
            f'sum(finetune_search_trials{{{JOB},state="Failed"}} or finetune_ensemble_members{{{JOB},state="Failed"}})'
        ),
        colors=steps(GREY, (0, GREEN), (1, RED)),
    )
    yield panels.number(
        "Device time",
        "Training time of the trials' ended attempts, times the GPUs of each, or times 1 on a CPU.",
        "s",
        Query(of_job("search_device_seconds")),
        absent="–",
    )
    yield panels.number(
        "Saved by pruning",
        "Device time that pruned trials would have needed beyond, had they trained as long as others; an estimate.",
        "s",
        Query(of_job("search_saved_device_seconds")),
        absent="–",
        colors=steps(GREY, (-1e9, GREEN)),
    )


def _trials() -> Iterator[Builder[Panel]]:
    yield panels.lines(
        "Trials by state",
        "Trials that exist.",
        "short",
        [
            Query(f'max(finetune_search_trials{{{JOB},state="{state}"}})', state, color)
            for state, color in STATES.items()
        ],
        width=12,
        stacked=True,
    )
    yield panels.lines(
        "Best value so far",
        "Of the metric that trials are compared by. A long flat end: more trials will hardly help.",
        "short",
        [Query(f"max by (metric) (finetune_search_best_value{{{JOB}}})", "{{metric}}", GREEN)],
        width=12,
    )
    yield panels.lines(
        "Validation loss of each run",
        "A curve for each trial (t), repetition (c) and member (m). Pruned trials end early.",
        "short",
        [Query(run("eval_loss"), "{{run}}")],
        dots=True,
        width=12,
        height=9,
        calcs=("min",),
    )
    yield panels.lines(
        "Training loss of each run",
        "A curve for each trial (t), repetition (c) and member (m).",
        "short",
        [Query(run("train_loss"), "{{run}}")],
        width=12,
        height=9,
        calcs=("min",),
    )


def _ensemble() -> Iterator[Builder[Panel]]:
    yield panels.bars(
        "Members by state",
        "Members of the ensemble.",
        "short",
        Query(f"max by (state) (finetune_ensemble_members{{{JOB}}})", "{{state}}"),
        colors=steps(BLUE),
    )
    yield panels.bars(
        "The combination beside its members",
        "The ensemble's metric: of the combination, of its best member, and the mean of all.",
        "short",
        Query(f"max by (metric, of) (finetune_ensemble_value{{{JOB}}})", "{{of}}"),
        colors=steps(GREEN),
    )
    yield panels.number(
        "Gain",
        "How much better the combination is than its best member; negative if it is worse.",
        "short",
        Query(of_job("ensemble_gain")),
        width=8,
        height=8,
        absent="no ensemble yet",
        colors=steps(GREY, (-1e9, RED), (0, GREEN)),
    )
