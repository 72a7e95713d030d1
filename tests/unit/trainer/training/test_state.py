"""The state of a run: as an earlier version wrote it, and rolled back."""

import shutil
from dataclasses import asdict
from pathlib import Path

from finetune_api.status import CheckpointStatus
from finetune_trainer.optimization.early_stopping import Patience
from finetune_trainer.optimization.plateau import Plateau
from finetune_trainer.training.state import TrainState
from unit.trainer.logs import messages

GOLDEN = Path(__file__).parents[3] / "golden" / "checkpoint-v1"
"""Written by the trainer of commit 18eac05."""


def test_a_checkpoint_of_the_first_version_is_read_and_written_as_it_was(tmp_path):
    from finetune_trainer.checkpoints.fence import Fence
    from finetune_trainer.checkpoints.store import CheckpointStore

    folder = shutil.copytree(GOLDEN, tmp_path / "checkpoints")
    fence, said = Fence(folder, attempt=4), messages()
    fence.claim()
    loaded = CheckpointStore(fence, "same", {"torch": "2.0"}, 2).newest()
    state = TrainState.from_json(loaded.state)
    assert (said, loaded.step, loaded.tensors["model"]["weight"].tolist()) == ([], 20, [20.0] * 4)
    assert (state.step, state.tokens, state.computed_tokens, state.micro_batch_size) == (20, 900, 1000, 4)
    assert (state.loss_sum, state.weight, state.seconds) == (3.5, 40.0, 12.5)
    assert [each.step for each in state.evaluations] == [10, 15]
    assert state.best == CheckpointStatus(step=15, metric="eval_accuracy", value=0.8)
    assert (state.patience, state.plateau) == (Patience(0.6, 1), Plateau(0.6, 1, 1.0))
    assert (state.nonfinite, state.failed_step, state.returned_step) == (2, 17, 12)
    assert state.to_json() == loaded.state | {"warmup_from_zero": True}


def test_a_rollback_takes_everything_of_the_checkpoint_but_what_is_known_of_failures_since():
    earlier = TrainState(micro_batch_size=8, step=12, tokens=70, rate_factor=0.5, nonfinite=1, failed_step=11)
    state = TrainState(micro_batch_size=2, step=20, tokens=99, rate_factor=0.5, nonfinite=3)
    state.roll_back_to(earlier, failed_step=21, rate_factor=0.1)
    kept = {"micro_batch_size": 2, "nonfinite": 3, "failed_step": 21, "returned_step": 12}
    assert asdict(state) == asdict(earlier) | kept | {"rate_factor": 0.5 * 0.1**2}
