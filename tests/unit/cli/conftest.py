"""Commands in this process, and a cluster of canned replies."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from api_stub import Stub, api_stub
from finetune_sdk import job


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """The cluster of the current context."""
    monkeypatch.setattr(job, "POLL_SECONDS", 0.0)
    with api_stub(tmp_path) as running:
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig))
        yield running
