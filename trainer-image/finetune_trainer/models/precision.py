"""Number formats: whether models can be computed in that of the hardware."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from finetune_api.run import FaultPlace
from finetune_api.training import Precision
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.layers.probes import why_not_bfloat16
from finetune_trainer.process.devices import Compute

logger = logging.getLogger(__name__)


def resolve_precision(
    loaders: Iterable[Callable[[], Any]], compute: Compute, asked: Precision, field: str
) -> Compute:
    """In float32, where a CPU computes in bfloat16 and one of the models cannot be; one is in memory at a time.

    Raises ConfigurationError if `field` requires bfloat16.
    """
    if compute.device.type != "cpu" or compute.precision is not Precision.BFLOAT16:
        return compute
    for load in loaders:
        reason = _why_not(load())
        if reason is None:
            continue
        if asked is Precision.BFLOAT16:
            raise ConfigurationError(f"{field}: {reason}; set Auto or Float32", FaultPlace(field=field))
        logger.warning(f"{reason}; using Float32 instead")
        return replace(compute, precision=Precision.FLOAT32)
    return compute


def _why_not(model: Any) -> str | None:
    reason = why_not_bfloat16(model)
    return reason and f"{type(model).__name__} cannot be computed in bfloat16 ({reason})"
