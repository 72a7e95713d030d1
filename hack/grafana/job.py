"""One job: where it is, how it learns, what it costs."""

from collections.abc import Iterator

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import panels
from grafana.panels import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, YELLOW, Query, steps

JOB = 'namespace="$namespace",name="$job"'
PODS = 'namespace="$namespace",pod=~"$job-[0-9a-f]{8}-a[0-9]+-.+"'
EXPORTED = 'exported_namespace="$namespace",exported_pod=~"$job-[0-9a-f]{8}-a[0-9]+-.+"'
"""The pods of the job's attempts, by their names: JOB-UID8-aATTEMPT-RANDOM. DCGM's exporter is scraped in both ways."""
PHASES = {"Pending": YELLOW, "Running": BLUE, "Suspended": PURPLE, "Succeeded": GREEN, "Failed": RED}


def of_job(metric: str) -> str:
    """What the operator says of the job; `max` drops the labels of the scrape."""
    return f"max(finetune_job_{metric}{{{JOB}}})"


def of_pods(metric: str) -> str:
    """What the trainer's pods say of themselves; rank 0 says it for all."""
    return f"max(finetune_{metric}{{{JOB}}})"


def dashboard() -> Dashboard:
    """State first, then how it learns, then its speed, memory and faults."""
    made = panels.dashboard(
        "finetune-job",
        "Fine-tuning / Job",
        "One FineTuneJob: state, progress, loss, speed, memory, checkpoints and attempts.",
        period="now-3h",
    )
    made = (
        made.with_variable(
            panels.variable("namespace", "Namespace", "label_values(finetune_job_info, namespace)")
        )
        .with_variable(
            panels.variable("job", "Job", 'label_values(finetune_job_info{namespace="$namespace"}, name)')
        )
        .with_variable(panels.datasource_of_logs())
        .link(panels.link_to_logs())
        .annotation(_attempts())
    )
    parts = {
        "": (*_numbers(), *_usage()),
        "Learning": _learning(),
        "Speed": _speed(),
        "Memory, checkpoints, faults": _faults(),
        "Result": _outcome(),
    }
    return panels.assemble(made, parts)


def _attempts() -> build.AnnotationQuery:
    """A mark where each attempt starts to train."""
    now, before = (
        f"count by (attempt) (finetune_train_steps_total{{{JOB}}}{at})" for at in ("", " offset $__interval")
    )
    starts = f"{now} unless {before}"
    return panels.marks("Attempts", starts, "Attempt {{attempt}}", PURPLE)


def _numbers() -> Iterator[Builder[Panel]]:
    state = " or ".join(
        f'{number} * max by (phase, reason) (finetune_job_state{{{JOB},phase="{phase}"}})'
        for number, phase in enumerate(PHASES, start=1)
    )
    colors = [(float(number), color) for number, color in enumerate(PHASES.values(), start=1)]
    yield panels.number(
        "State",
        "The reason, in the colour of the phase. kubectl describe ftj NAME has a sentence with the remedy.",
        "none",
        Query(state, "{{reason}}"),
        width=6,
        name_only=True,
        colors=steps(GREY, *colors),
    )
    yield panels.number(
        "Progress",
        "Share of the optimizer steps done; of a search or ensemble, of its trials or members.",
        "percentunit",
        Query(of_job("progress_ratio")),
        width=3,
        colors=steps(GREY, (0, BLUE)),
    )
    yield panels.number(
        "Time left", "As the trainer estimates it.", "s", Query(of_job("eta_seconds")), width=3, absent="–"
    )
    yield panels.number(
        "Attempt",
        "Number of the latest attempt. More than 1: earlier ones failed or were interrupted.",
        "short",
        Query(of_job("attempt")),
        width=3,
        colors=steps(GREY, (0, GREEN), (2, YELLOW), (4, RED)),
    )
    yield panels.number(
        "Last report",
        "Time since the trainer last reported progress. A job that runs and is silent may be stuck.",
        "s",
        Query(f"time() - {of_job('last_report_timestamp_seconds')}"),
        width=3,
        absent="–",
        colors=steps(GREY, (0, GREEN), (300, YELLOW), (600, RED)),
    )
    yield panels.number(
        "Last checkpoint",
        "Time since the last checkpoint: what a killed pod would lose.",
        "s",
        Query(f"time() - {of_pods('train_checkpoint_last_success_timestamp_seconds')}"),
        width=3,
        absent="–",
        colors=steps(GREY, (0, GREEN), (1800, YELLOW), (3600, RED)),
    )
    yield panels.number(
        "GPU time",
        "Time for which the job's containers ran, times the GPUs that they held.",
        "s",
        Query(of_job("gpu_seconds_total")),
        width=3,
    )


def _usage() -> Iterator[Builder[Panel]]:
    ends = {"Running": BLUE, "Succeeded|Skipped": GREEN}
    others = "|".join(ends)
    ended = f"finetune_job_preflight_info{{{JOB},reason"
    state = " or ".join(
        [
            *(
                f'{number} * max by (reason) ({ended}=~"{reasons}"}})'
                for number, reasons in enumerate(ends, start=1)
            ),
            f'3 * max by (reason) ({ended}!~"{others}"}})',
        ]
    )
    yield panels.number(
        "Preflight",
        "The check of data, model and output before a GPU is requested: the reason of its end.",
        "none",
        Query(state, "{{reason}}"),
        width=6,
        name_only=True,
        absent="–",
        colors=steps(GREY, (1, BLUE), (2, GREEN), (3, RED)),
    )
    yield panels.number(
        "Waited",
        "Time for which attempts waited for their containers: queue, node, volume, image.",
        "s",
        Query(of_job("queued_seconds")),
        width=3,
        absent="–",
    )
    yield panels.number(
        "Goodput",
        "Share of the GPU time that was spent on training that no retry had to repeat.",
        "percentunit",
        Query(of_job("goodput_ratio")),
        width=3,
        absent="–",
        colors=steps(GREY, (0, RED), (0.5, YELLOW), (0.8, GREEN)),
    )
    yield panels.number(
        "Lost steps",
        "Optimizer steps that attempts had done after their last checkpoint, and that are repeated.",
        "short",
        Query(f"{of_job('steps_lost')} or 0 * {of_job('attempt')}"),
        width=3,
        absent="–",
        colors=steps(GREY, (0, GREEN), (1, YELLOW)),
    )
    yield panels.number(
        "Baseline",
        "What the compared metric would be without training, on the same validation rows.",
        "short",
        Query(f"max by (metric) (finetune_job_baseline_value{{{JOB}}})", "{{metric}}"),
        width=3,
        absent="–",
    )
    yield panels.number(
        "Better than the baseline by",
        "On the same validation rows, with the ends of the 95 % interval; negative if training made it worse.",
        "short",
        *(
            Query(f'max(finetune_job_improvement{{{JOB},bound="{bound}"}})', bound)
            for bound in ("low", "estimate", "high")
        ),
        width=6,
        absent="–",
        colors=steps(RED, (0, GREEN)),
    )


def _learning() -> Iterator[Builder[Panel]]:
    yield panels.lines(
        "Loss",
        "Training loss of each step, and loss on the validation rows. Where the second rises while the first "
        "falls, the model overfits.",
        "short",
        [
            Query(f"{of_pods('train_loss')} or {of_job('loss')}", "training", BLUE),
            Query(f"{of_pods('eval_loss')} or {of_job('eval_loss')}", "validation", ORANGE),
        ],
        width=12,
        height=9,
        calcs=("min", "lastNotNull"),
    )
    yield panels.lines(
        "Metrics on the validation rows",
        "At each evaluation.",
        "short",
        [
            Query(
                f"max by (metric) (finetune_eval_metric{{{JOB}}} or finetune_job_eval_metric{{{JOB}}})",
                "{{metric}}",
            )
        ],
        width=12,
        height=9,
        calcs=("max", "lastNotNull"),
    )
    yield panels.lines(
        "Learning rate",
        "Of each step.",
        "short",
        [Query(of_pods("train_learning_rate"), "learning rate", BLUE)],
    )
    yield panels.lines(
        "Gradient norm",
        "L2 norm before and after clipping. A rising norm announces a diverging loss.",
        "short",
        [
            Query(of_pods("train_grad_norm"), "before clipping", ORANGE),
            Query(of_pods("train_grad_norm_clipped"), "after clipping", BLUE),
        ],
    )
    yield panels.lines(
        "Progress",
        "Share of the steps done; a flat line while the job runs: it is stuck, or repeats lost steps. "
        "Goodput: share of the GPU time that was spent on training that no retry had to repeat.",
        "percentunit",
        [
            Query(of_job("progress_ratio"), "done", BLUE),
            Query(of_job("goodput_ratio"), "goodput", GREEN),
        ],
        highest=1,
    )


def _speed() -> Iterator[Builder[Panel]]:
    yield panels.lines(
        "Throughput",
        "Tokens per second without padding.",
        "short",
        [Query(f"sum(rate(finetune_train_tokens_total{{{JOB}}}[$__rate_interval]))", "tokens/s", BLUE)],
        calcs=("mean", "lastNotNull"),
    )
    rate = f"sum by (le) (rate(finetune_train_step_duration_seconds_bucket{{{JOB}}}[$__rate_interval]))"
    yield panels.lines(
        "Time of a step",
        "Estimated from a histogram: between two of its bounds it is a guess.",
        "s",
        [
            Query(f"histogram_quantile(0.5, {rate})", "median", BLUE),
            Query(f"histogram_quantile(0.95, {rate})", "95th percentile", ORANGE),
        ],
    )
    seconds = f"rate(finetune_train_step_duration_seconds_sum{{{JOB}}}[$__rate_interval])"
    yield panels.lines(
        "Waste",
        "Share of the step's time spent waiting for data, and of padding among the tokens. "
        "Waiting above 0.2: give the job more CPU, or prepare the rows in advance.",
        "percentunit",
        [
            Query(
                f"max(rate(finetune_train_data_wait_seconds_total{{{JOB}}}[$__rate_interval]) / {seconds})",
                "waiting for data",
                ORANGE,
            ),
            Query(of_pods("train_padding_ratio"), "padding", PURPLE),
        ],
        limit=steps(GREEN, (0.2, RED)),
    )


def _faults() -> Iterator[Builder[Panel]]:
    yield panels.lines(
        "Memory",
        "Peak so far: allocated by torch on the GPU; on a CPU, resident in the process. Expected: by preflight.",
        "bytes",
        [
            Query(f"max by (pod) (finetune_train_memory_bytes{{{JOB}}})", "{{pod}}"),
            Query(of_job("preflight_memory_bytes"), "expected", GREY),
        ],
    )
    yield panels.lines(
        "GPU utilisation",
        "As DCGM's exporter measures it; empty without it. Below 0.1 for long: the GPU waits.",
        "percentunit",
        [
            Query(
                f"max by (gpu) (DCGM_FI_DEV_GPU_UTIL{{{PODS}}} or DCGM_FI_DEV_GPU_UTIL{{{EXPORTED}}}) / 100",
                "GPU {{gpu}}",
            )
        ],
        highest=1,
    )
    kinds = {
        "nonfinite": "NaN or infinite",
        "skipped_steps": "skipped",
        "rollbacks": "rollbacks",
        "loss_spikes": "loss spikes",
    }
    yield panels.lines(
        "Steps with a fault",
        "Since the attempt's start. A NaN or infinite loss never reaches the weights.",
        "short",
        [Query(of_pods(f"train_{metric}_total"), text) for metric, text in kinds.items()],
    )
    yield panels.lines(
        "Age of the last checkpoint",
        "What a killed pod would lose, in time. It falls to 0 at each checkpoint.",
        "s",
        [Query(f"time() - {of_pods('train_checkpoint_last_success_timestamp_seconds')}", "age", BLUE)],
        limit=steps(GREEN, (3600, RED)),
    )
    yield panels.lines(
        "Time to save a checkpoint",
        "Training stands still meanwhile.",
        "s",
        [Query(of_pods("train_checkpoint_duration_seconds"), "last checkpoint", BLUE)],
    )
    yield panels.lines(
        "Evaluations without improvement",
        "Early stopping ends the run at its patience.",
        "short",
        [Query(of_pods("early_stopping_bad_evaluations"), "evaluations", ORANGE)],
    )


def _outcome() -> Iterator[Builder[Panel]]:
    yield panels.bars(
        "Published model",
        "Metrics of the model that the job published, for an hour after its end: eval_ on the validation rows, "
        "test_ on the test rows.",
        "short",
        Query(f"max by (metric) (finetune_job_model_metric{{{JOB}}})", "{{metric}}"),
        width=12,
        height=6,
        colors=steps(GREEN),
    )
    yield panels.bars(
        "Numbers of your own script",
        "As your own script reported them last.",
        "short",
        Query(f"max by (metric) (finetune_job_reported_metric{{{JOB}}})", "{{metric}}"),
        width=12,
        height=6,
        colors=steps(BLUE),
    )
