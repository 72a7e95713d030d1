"""`helm test` in the cluster: its pod reaches the API server and the operator as training pods do."""

import subprocess

import pytest

from finetune_cluster.binaries import binary
from finetune_demo.platform import SYSTEM, Platform


@pytest.mark.parametrize("program", ["helm", "helm3"])
def test_the_selfcheck_passes_and_shows_what_it_found(platform: Platform, program: str) -> None:
    helm = [str(binary(program)), "--kubeconfig", str(platform.kubeconfig), "--namespace", SYSTEM]
    done = subprocess.run(
        [*helm, "test", "finetune-operator", "--logs", "--timeout=4m"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    assert "ok: pods reach the operator at https://finetune-operator.finetune-system.svc" in done.stdout
    assert "ok: a FineTuneJob, its claim and Job are accepted in namespace finetune-system" in done.stdout
