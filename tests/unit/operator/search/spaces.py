"""Searches for tests, which show only what a test is about."""

from typing import Any

from builders import job, spec, stored
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.status import TrialState
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.reading import parse
from finetune_core.search.trials import Evaluation, Trial

Json = dict[str, Any]

RATE = "training.optimizer.learningRate"
BATCH = "training.batchSize"
RATES: Json = {"path": RATE, "logUniform": {"min": 1e-5, "max": 1e-2}}
BATCHES: Json = {"path": BATCH, "choice": [16, 32, 64]}


def search_of(*parameters: Json, **fields: Any) -> Json:
    """`spec.search` with these parameters, by default the learning rate."""
    return {"parameters": list(parameters) or [RATES]} | fields


def searching(*parameters: Json, training: Json | None = None, **fields: Any) -> FineTuneJobSpec:
    """A spec that searches these parameters."""
    of = {"search": search_of(*parameters, **fields)} | ({"training": training} if training else {})
    return FineTuneJobSpec.from_json(spec(**of))


def parent(*parameters: Json, **fields: Any) -> FineTuneJob:
    """A stored job that searches."""
    return parse(stored(job("tune", search=search_of(*parameters, **fields))))


def trial(number: int, state: TrialState = TrialState.SUCCEEDED, **fields: Any) -> Trial:
    """A trial in this state."""
    return Trial(**({"number": number, "name": f"tune-t{number:03}", "state": state, "values": {}} | fields))


def curve(*values: float) -> tuple[Evaluation, ...]:
    """One evaluation an epoch."""
    return tuple(Evaluation(float(epoch), value) for epoch, value in enumerate(values, 1))
