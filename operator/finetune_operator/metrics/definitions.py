"""Every metric of the operator. The registry and the table in docs/monitoring.md are made from these. Pure.

No path, hyper-parameter or run id is a label; model and objective are labels of `finetune_job_info` only. Metrics with
the label `name` exist for living jobs and, for an hour, for finished ones.
"""

from finetune_api.exposition import Kind, Metric, Unit

_JOB = ("namespace", "name")
_MINUTES_TO_DAYS = (10, 30, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 86400, 172800, 604800)
_MILLISECONDS_TO_MINUTES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


def _gauge(name: str, text: str, *labels: str, unit: Unit = Unit.NUMBER) -> Metric:
    return Metric(f"finetune_{name}", Kind.GAUGE, text, labels, unit)


def _of_job(name: str, text: str, *labels: str, unit: Unit = Unit.NUMBER) -> Metric:
    return _gauge(name, text, *_JOB, *labels, unit=unit)


def _counter(name: str, text: str, *labels: str, unit: Unit = Unit.NUMBER) -> Metric:
    return Metric(f"finetune_{name}_total", Kind.COUNTER, text, labels, unit)


def _histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...]) -> Metric:
    return Metric(f"finetune_{name}_seconds", Kind.HISTOGRAM, text, labels, Unit.SECONDS, buckets)


JOBS = _gauge("jobs", "FineTuneJobs without trials and members", "namespace", "phase")
FINISHED = _counter("jobs_finished", "Finished jobs", "namespace", "result", "reason")
ATTEMPTS = _counter("job_attempts", "Ended attempts", "reason")
LOST_STEPS = _counter(
    "job_lost_steps",
    "Optimizer steps that were repeated: in the next attempt or, after an eviction by Kueue, in the same one",
    "namespace",
)
PREFLIGHTS = _counter(
    "job_preflights", "Ended tries of preflight; each that failed did so before a GPU was requested", "reason"
)
QUEUE_WAIT = _histogram(
    "job_queue_wait",
    "From the start of an attempt, or its eviction by Kueue, to the start of its container: queue, quota, scheduling,"
    " volumes, image; queue is that of Kueue, or empty",
    "queue",
    buckets=_MINUTES_TO_DAYS,
)
DURATION = _histogram(
    "job_duration", "From the first attempt to the end of the job", "result", buckets=_MINUTES_TO_DAYS
)

INFO = _of_job(
    "job_info",
    "What the job is: kind is Training, Script, Search or Ensemble; queue is that of Kueue, or empty",
    "uid",
    "model",
    "objective",
    "kind",
    "queue",
    unit=Unit.ONE,
)
STATE = _of_job(
    "job_state", "The job's phase, and the reason of its condition Running", "phase", "reason", unit=Unit.ONE
)
CONDITION = _of_job(
    "job_condition", "1 for each condition that is True; others have no series", "type", unit=Unit.ONE
)
CREATED = _of_job("job_created_timestamp_seconds", "When the job was created", unit=Unit.TIMESTAMP)
STARTED = _of_job("job_start_timestamp_seconds", "When the first attempt started", unit=Unit.TIMESTAMP)
COMPLETED = _of_job("job_completion_timestamp_seconds", "When the job finished", unit=Unit.TIMESTAMP)
DEADLINE = _of_job(
    "job_deadline_timestamp_seconds",
    "When the running attempt uses up spec.activeDeadlineSeconds",
    unit=Unit.TIMESTAMP,
)
REPORTED = _of_job(
    "job_last_report_timestamp_seconds",
    "Time of the trainer's last progress report in the status, until the job has finished",
    unit=Unit.TIMESTAMP,
)
PREFLIGHT = _of_job(
    "job_preflight_info",
    "The latest try of preflight: the reason of its end, or Running; no series without preflight",
    "reason",
    unit=Unit.ONE,
)
PREFLIGHT_MEMORY = _of_job(
    "job_preflight_memory_bytes",
    "Peak memory of each training process that preflight expects, until the job has finished",
    unit=Unit.BYTES,
)
POD = _of_job("job_pod_info", "A pod of the job that has not ended", "pod", unit=Unit.ONE)
ATTEMPT = _of_job("job_attempt", "Number of the latest attempt")
PROGRESS = _of_job(
    "job_progress_ratio",
    "Share of the steps done, or of the trials or members that have ended",
    unit=Unit.RATIO,
)
ETA = _of_job("job_eta_seconds", "Estimated time left, as the trainer reported it", unit=Unit.SECONDS)
STEP = _of_job("job_step", "Optimizer steps done")
LOSS = _of_job("job_loss", "Training loss, as last reported")
EVAL_LOSS = _of_job("job_eval_loss", "Loss on the validation rows at the newest evaluation")
EVAL_METRIC = _of_job("job_eval_metric", "Metric on the validation rows at the newest evaluation", "metric")
BASELINE = _of_job(
    "job_baseline_value",
    "What the compared metric would be without training, on the validation rows",
    "metric",
)
IMPROVEMENT = _of_job(
    "job_improvement",
    "How much better than the baseline the trained model is, whether higher or lower values are better; negative if"
    " it is worse. bound is estimate, or low or high: the ends of the 95 % interval",
    "metric",
    "bound",
)
MODEL_METRIC = _of_job(
    "job_model_metric",
    "Metric of the published model: eval_ on validation rows, test_ on test rows",
    "metric",
)
REPORTED_METRIC = _of_job("job_reported_metric", "Other numbers that your own script reports", "metric")
GPU_SECONDS = Metric(
    "finetune_job_gpu_seconds_total",
    Kind.COUNTER,
    "Time for which the job's containers ran times the GPUs that they held, trials and members included",
    _JOB,
    Unit.SECONDS,
)
QUEUED_SECONDS = _of_job(
    "job_queued_seconds", "Time for which attempts have waited for their containers", unit=Unit.SECONDS
)
STEPS_LOST = _of_job(
    "job_steps_lost",
    "Optimizer steps that were done after the checkpoint from which training went on or will; no series before a"
    " second attempt or an eviction",
)
GOODPUT = _of_job(
    "job_goodput_ratio",
    "Share of the GPU time that was spent on training that no retry had to repeat; for a script, share of its steps",
    unit=Unit.RATIO,
)

TRIALS = _of_job("search_trials", "Trials of a search", "state")
TRIALS_PLANNED = _of_job("search_trials_planned", "Trials that the search plans to run")
BEST_VALUE = _of_job("search_best_value", "Value of the best trial so far", "metric")
SEARCH_SECONDS = _of_job(
    "search_device_seconds",
    "Training time of ended attempts of trials times their GPUs, or times 1 on a CPU",
    unit=Unit.SECONDS,
)
SAVED_SECONDS = _of_job(
    "search_saved_device_seconds", "Device seconds that pruning saved, estimated", unit=Unit.SECONDS
)
MEMBERS = _of_job("ensemble_members", "Members of an ensemble", "state")
ENSEMBLE_VALUE = _of_job(
    "ensemble_value",
    "What the ensemble's metric is: of is combined, best_member or mean_member",
    "metric",
    "of",
)
GAIN = _of_job("ensemble_gain", "How much better the combination is than its best member")

RECONCILE = _histogram(
    "operator_reconcile_duration", "Time of one reconcile", buckets=_MILLISECONDS_TO_MINUTES
)
ERRORS = _counter("operator_reconcile_errors", "Reconciles that failed and were retried")
DEPTH = _gauge("operator_queue_depth", "FineTuneJobs that wait for a reconcile")
LATENCY = _histogram(
    "operator_queue_latency",
    "Time from asking for a reconcile to its start",
    buckets=_MILLISECONDS_TO_MINUTES,
)
REQUESTS = _counter("operator_api_requests", "Requests to the API server", "verb", "code")
WATCH_AGE = _gauge(
    "operator_watch_age_seconds",
    "Time since the last watch event of the kind, or since everything was last listed and compared",
    "kind",
    unit=Unit.SECONDS,
)
LEADER = _gauge("operator_leader", "1 for the replica that reconciles, 0 for a standby", unit=Unit.ONE)
EXCLUDED = _gauge(
    "excluded_node_jobs",
    "Unfinished FineTuneJobs, trials and members included, that avoid a node on which two of their last three"
    " failures happened; of at most 50 nodes",
    "node",
)
UNSERVED = _gauge(
    "operator_namespace_unserved",
    "1 for a namespace that the operator should serve and may not list",
    "namespace",
    unit=Unit.ONE,
)
REFUSED = _counter(
    "operator_progress_connections_refused",
    "Connections to the progress port that were closed, as their address had too many open or failed, or most of all",
)
DROPPED_JOBS = _gauge(
    "operator_finished_jobs_dropped",
    "Jobs that finished within the last hour and have no series, as 1,000 newer ones do",
)
DROPPED_SERIES = _gauge(
    "operator_job_series_dropped", "Series of jobs that are not exposed, as each job has at most 25"
)


def definitions() -> list[Metric]:
    """All of them, in this order."""
    return [one for one in globals().values() if isinstance(one, Metric)]
