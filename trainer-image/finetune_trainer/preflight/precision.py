"""What a run computes in, by the labels of the GPUs that it may get."""

from finetune_api.preflight import PreflightConfig
from finetune_api.run import FaultPlace
from finetune_api.training import Precision
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.process.devices import BFLOAT16_SINCE, expected_precision


def precision_of(config: PreflightConfig) -> Precision:
    """The expected one, on the oldest of the GPUs."""
    return expected_precision(config.run.training.precision, config.run.devices, _oldest(config))


def check_precision(config: PreflightConfig) -> str | None:
    """A warning where some GPUs do not have the precision. Raises ConfigurationError where none has."""
    newest, oldest = config.gpu_capability, _oldest(config)
    if config.run.training.precision is not Precision.BFLOAT16 or not newest or not oldest:
        return None
    if newest < BFLOAT16_SINCE:
        named = f" ({config.gpu_product})" if config.gpu_product else ""
        raise ConfigurationError(
            f"training.precision: by the labels of the nodes that the job may run on, no GPU{named} supports bfloat16;"
            " set Auto or Float32",
            FaultPlace(field="training.precision"),
        )
    if oldest < BFLOAT16_SINCE:
        return (
            "the GPUs of some nodes do not support bfloat16, and training fails there; choose the others with"
            " scheduling.nodeSelector, or set training.precision: Auto"
        )
    return None


def _oldest(config: PreflightConfig) -> int | None:
    return config.least_gpu_capability or config.gpu_capability
