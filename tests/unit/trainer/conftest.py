"""Fixtures of the trainer's tests. One thread: forked processes and this one then compute the same bytes."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.update(
    OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false"
)

import pytest

from finetune_trainer.reporting.log import LOGGER
from signals import signals_stay  # noqa: F401 - a fixture for every test here
from unit.trainer.tiny import Job, build_model, job, reviews


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT."""
    import torch

    torch.set_num_threads(1)
    return build_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _log_of_one_test() -> Iterator[None]:
    """What a test listens with, or a run in this process writes to, ends with the test."""
    yield
    logging.getLogger(LOGGER).handlers.clear()


@pytest.fixture
def make_job(tmp_path: Path, model_folder: Path) -> Callable[..., Job]:
    """Makes jobs; the first argument is a folder's name, the others change the configuration."""

    def make(name: str = "job", rows: list[dict[str, Any]] | None = None, **changes: Any) -> Job:
        return job(tmp_path / name, model_folder, rows or reviews(64), **changes)

    return make
