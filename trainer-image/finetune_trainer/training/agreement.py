"""Before the first step: all ranks have read the same, and see the folder that rank 0 writes to.

Nodes may see different files under one path, and would train on them without a sign of it.
"""

import time

from finetune_api.run import FaultPlace
from finetune_trainer.checkpoints.fence import Fence
from finetune_trainer.distributed import Ranks
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.training.inputs import Inputs

VISIBLE_SECONDS = 60.0
"""A network file system shows another node's file only after a while: NFS keeps attributes this long at most."""
_POLL_SECONDS = 0.2


def check_same_inputs(inputs: Inputs, ranks: Ranks) -> None:
    """Raise ConfigurationError if a rank read other inputs, or another configuration, than rank 0."""
    found = ranks.all_gather(inputs.fingerprint)
    other = next((rank for rank, one in enumerate(found) if one != found[0]), None)
    if other is not None:
        raise ConfigurationError(
            f"rank {other} read other inputs than rank 0: model, data or configuration differ between them. A volume"
            " that several nodes mount must show the same files on each; a file must not change while a run starts"
        )


def check_shared_output(inputs: Inputs, ranks: Ranks, seconds: float = VISIBLE_SECONDS) -> None:
    """Raise ConfigurationError if a rank does not see the owner.json that rank 0 wrote beside the checkpoints.

    Raises StoppedError where a newer attempt has replaced it.
    """
    fence = inputs.fence
    nonce = ranks.broadcast(fence.nonce)
    seen = ranks.all_gather(_sees(fence, nonce, seconds))
    if not ranks.broadcast(fence.owned_by() == nonce):
        raise fence.superseded()
    if not all(seen):
        raise ConfigurationError(
            f"rank {seen.index(False)} does not see what rank 0 writes to {fence.folder}: a job on several nodes"
            " needs an output claim that all of them mount (ReadWriteMany, such as NFS)",
            FaultPlace(field="output.uri"),
        )


def _sees(fence: Fence, nonce: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while fence.owned_by() != nonce:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
