"""The space that checkpoints, model and tokens need on the output claim."""

import shutil
from pathlib import Path
from typing import Any

from finetune_api.preflight import PreflightConfig
from finetune_api.run import FaultPlace, RunConfig
from finetune_api.status import PreflightDisk
from finetune_trainer.data.tokens import Examples
from finetune_trainer.errors import StorageError
from finetune_trainer.models.adapters import merges
from finetune_trainer.models.frozen_weights import parameters_of
from finetune_trainer.models.precision import published_dtype
from finetune_trainer.preflight.memory import optimizer_states
from finetune_trainer.process.memory import readable
from finetune_trainer.training.inputs import Inputs

FLOAT32_BYTES = 4
BESIDE_KEPT = 2
"""Checkpoints beside training.checkpoint.keep: the best one, and one that is being written."""


def estimate_disk(
    config: PreflightConfig, inputs: Inputs, model: Any, parts: list[Examples]
) -> PreflightDisk:
    """What the run needs at the same time, and what there is: on the mounted claim, else on the one to be made."""
    run = inputs.config
    everything = parameters_of(model)
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    saved = trained if run.model.adapter else everything
    copies = optimizer_states(run.training) + (run.training.ema is not None)
    checkpoint = FLOAT32_BYTES * (saved + copies * trained)
    published = everything if run.model.adapter is None or merges(run.model) else trained
    dtype = published_dtype(run.output.dtype, inputs.folder.path)
    tokens = sum(part.ids.nbytes + part.offsets.nbytes + part.targets.nbytes for part in parts)
    size = published * dtype.itemsize
    written = 0 if config.output_mounted else tokens
    kept = run.training.checkpoint.keep + BESIDE_KEPT
    free = _free(Path(run.output.model_dir)) if config.output_mounted else config.output_size
    return PreflightDisk(
        needed=kept * checkpoint + size + written,
        checkpoint=checkpoint,
        model=size,
        tokens=tokens,
        free=free,
    )


def check_disk(need: PreflightDisk, run: RunConfig) -> str | None:
    """A warning where the space may not suffice. Raises StorageError where not one checkpoint or the model fits."""
    if need.free is None or need.needed <= need.free:
        return None
    name = run.output.uri or run.output.model_dir
    if max(need.checkpoint, need.model) > need.free:
        raise StorageError(
            f"output.uri: {name} has {readable(need.free)} of space, too little for one checkpoint of"
            f" {readable(need.checkpoint)} and a model of {readable(need.model)}; free space, or take a larger claim",
            FaultPlace(field="output.uri", file=name),
        )
    return (
        f"output.uri: {name} has {readable(need.free)} of space, and {run.training.checkpoint.keep + BESIDE_KEPT}"
        f" checkpoints and the model may need {readable(need.needed)}; free space, lower training.checkpoint.keep, or"
        " take a larger claim"
    )


def _free(path: Path) -> int | None:
    """Of the volume that a folder is on, or will be on."""
    there = next((one for one in (path, *path.parents) if one.exists()), None)
    return shutil.disk_usage(there).free if there else None
