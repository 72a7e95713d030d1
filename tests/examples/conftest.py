"""One thread: the forked trainers share what this process has loaded. The processes of several GPUs are new ones."""

import os
import signal
import sys
from collections.abc import Iterator

import pytest

os.environ.update(
    OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false"
)
os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)


@pytest.fixture(autouse=True)
def _signals_stay() -> Iterator[None]:
    """The trainer takes SIGTERM and Ctrl-C for itself."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGTERM, before[0])
    signal.signal(signal.SIGINT, before[1])
