"""What the untrained model gives, measured before the first step, and the comparison with it at the end.

Each is kept beside the checkpoints: a resumed run has no untrained model any more."""

from dataclasses import dataclass

from finetune_api.status import Metrics
from finetune_trainer.publishing.gate import check_gate
from finetune_trainer.training.assembly import Assembly
from finetune_trainer.training.context import Run
from finetune_trainer.training.forgetting import Before, measure_after, measure_before
from finetune_trainer.training.inputs import Inputs
from finetune_trainer.training.samples import written_before
from finetune_trainer.training.worth import Baseline, compare, measure_baseline


@dataclass(frozen=True)
class Untrained:
    """What is compared at the end, as far as it was asked for."""

    baseline: Baseline | None
    before: Before | None
    texts: list[str]
    """What the model wrote for the prompts of training.evaluation.samples."""


def measure_untrained(inputs: Inputs, parts: Assembly) -> Untrained:
    """Measure it, or read what an earlier attempt measured. Raises StoppedError, ConfigurationError."""
    run, place = parts.run, (inputs.fence.folder, inputs.fingerprint)
    asked, new_head = run.training.evaluation, parts.new_head
    return Untrained(
        measure_baseline(run, *place, new_head=new_head) if asked.baseline else None,
        measure_before(run, parts.forgetting, inputs.config.gate, *place, new_head=new_head)
        if parts.forgetting
        else None,
        written_before(run, parts.tokenizer, *place),
    )


def judge(inputs: Inputs, run: Run, step: int, metrics: Metrics, untrained: Untrained) -> None:
    """Compare the model of `run`, whose weights are those of a step, with the untrained one.

    Raises GateNotPassedError if it must not be published.
    """
    gate = inputs.config.gate
    improvement = compare(run, untrained.baseline, gate) if untrained.baseline else None
    if untrained.before is not None:
        measure_after(run, untrained.before, run.training.evaluation.forgetting)
    if gate is not None:
        folder = inputs.config.output.checkpoint_dir
        check_gate(
            gate, metrics, improvement, f"its weights are kept in the checkpoint of step {step} in {folder}"
        )
