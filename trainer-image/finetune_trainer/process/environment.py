"""Variables of the libraries: no contact to the Hub unless a run needs it, and no output beside our log."""

from collections.abc import Iterable

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
TRACKERS = ("WANDB_", "MLFLOW_", "COMET_", "NEPTUNE_", "CLEARML_", "SWANLAB_")
"""How variables begin that are for services which collect metrics."""


def for_trackers(names: Iterable[str]) -> str:
    """What to say of variables that have no effect; empty if there are none."""
    found = sorted(name for name in names if name.startswith(TRACKERS))
    if not found:
        return ""
    have = "have" if len(found) > 1 else "has"
    return (
        f"env: {', '.join(found)} {have} no effect, as the trainer sends metrics to no such service: they are in the"
        " status, in metrics.jsonl and in Prometheus, and for TensorBoard with training.debug.tensorBoard: true"
    )
