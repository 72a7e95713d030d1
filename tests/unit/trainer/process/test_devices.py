"""What a run computes in is known before it runs: its memory and time are estimated with it."""

import pytest
import torch

from finetune_api.run import Devices
from finetune_api.training import Precision
from finetune_trainer.process.devices import choose_compute, expected_precision


@pytest.mark.parametrize("capabilities", [{}, {"avx512_bf16": True}, {"amx_bf16": True}])
@pytest.mark.parametrize("asked", [Precision.AUTO, Precision.FLOAT32])
def test_a_cpu_computes_in_what_was_expected(monkeypatch, asked, capabilities):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    devices = Devices(gpus=0)
    assert expected_precision(asked, devices, None) is choose_compute(devices, asked, 1).precision


def test_a_gpu_is_expected_to_compute_in_bfloat16_whatever_the_cpu_can(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert expected_precision(Precision.AUTO, Devices(gpus=1), None) is Precision.BFLOAT16


@pytest.mark.parametrize(
    ("capability", "expected"),
    [(7, Precision.FLOAT32), (8, Precision.BFLOAT16), (12, Precision.BFLOAT16)],
)
def test_a_gpu_before_ampere_is_expected_to_compute_in_float32(capability, expected):
    assert expected_precision(Precision.AUTO, Devices(gpus=1), capability) is expected
