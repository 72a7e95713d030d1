"""The device and its number format. The first module to import torch."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from finetune_api.run import Devices, FaultPlace
from finetune_api.training import Precision
from finetune_trainer.errors import ConfigurationError, NoGpuError

BFLOAT16_SINCE = 8
"""Major CUDA compute capability of the first GPUs with bfloat16, such as A100 and A10."""


@dataclass(frozen=True)
class Compute:
    """A device with its number format."""

    device: torch.device
    """Of all tensors."""
    name: str
    """For log and status: cuda, cpu or cpu (simulated GPU)."""
    precision: Precision

    @property
    def dtype(self) -> torch.dtype:
        """What matrix products are computed in."""
        return torch.bfloat16 if self.precision is Precision.BFLOAT16 else torch.float32

    def autocast(self) -> AbstractContextManager[None]:
        """The context of every forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype is torch.bfloat16)


def choose_compute(devices: Devices, precision: Precision, threads: int, rank: int = 0) -> Compute:
    """The requested device, never a fallback; with several GPUs, that of this rank among those of its node.

    Raises NoGpuError if torch sees fewer GPUs, ConfigurationError for settings that the hardware does not support.
    """
    torch.set_num_threads(threads)
    on_gpu = devices.on_gpu
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        _check_gpus(devices.gpus, torch.cuda.device_count())
        torch.cuda.set_device(device)
    name = "cuda" if on_gpu else "cpu (simulated GPU)" if devices.gpus else "cpu"
    return Compute(device, name, _precision(precision, on_gpu))


def expected_precision(asked: Precision, devices: Devices, capability: int | None) -> Precision:
    """What a run on these devices computes in, as far as a pod without them can know.

    `capability` is the major CUDA compute capability of the GPUs; without it they are taken to compute in bfloat16.
    """
    if asked is not Precision.AUTO:
        return asked
    able = (
        (capability or BFLOAT16_SINCE) >= BFLOAT16_SINCE
        if devices.on_gpu
        else _computes_bfloat16(on_gpu=False)
    )
    return Precision.BFLOAT16 if able else Precision.FLOAT32


def use_deterministic_algorithms(*, wanted: bool) -> None:
    """Make torch refuse nondeterministic algorithms; call before the device is first used."""
    if wanted:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS reads it when it starts
    if wanted != torch.are_deterministic_algorithms_enabled():  # the call imports torch's compiler
        torch.use_deterministic_algorithms(wanted)


def _check_gpus(wanted: int, seen: int) -> None:
    if seen < wanted:
        raise NoGpuError(
            f"{wanted} GPU(s) requested, but torch sees {seen}: check the driver, container toolkit and device"
            " plugin on this node",
            FaultPlace(field="resources.gpusPerNode"),
        )


def _precision(asked: Precision, on_gpu: bool) -> Precision:
    able = _computes_bfloat16(on_gpu)
    if asked is Precision.BFLOAT16 and not able:
        raise ConfigurationError(
            f"training.precision: this {'GPU' if on_gpu else 'CPU'} does not support bfloat16; set Auto or Float32",
            FaultPlace(field="training.precision"),
        )
    if asked is Precision.AUTO:
        return Precision.BFLOAT16 if able else Precision.FLOAT32
    return asked


def _computes_bfloat16(on_gpu: bool) -> bool:
    if on_gpu:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "amx_tile"))
