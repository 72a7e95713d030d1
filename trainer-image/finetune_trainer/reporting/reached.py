"""The newest step of a run, in a file beside its checkpoints: what SIGKILL leaves of steps that were not reported."""

import logging
import math
import time
from pathlib import Path

from finetune_api.run import ReachedStep

REACHED = "reached.json"
_PAUSE, _SHARE = 1.0, 100
"""Seconds between two writes, at least, and how many times as long as a write they are: storage may be far."""

logger = logging.getLogger(__name__)


class Reached:
    """Written by one attempt, read by the next. Not flushed: a node that is lost takes what it had not written yet."""

    def __init__(self, path: Path, attempt: int) -> None:
        self._path, self._attempt = path, attempt
        self._next = -math.inf

    def before(self) -> ReachedStep | None:
        """What the last attempt that trained has left, if that is whole."""
        try:
            return ReachedStep.model_validate_json(self._path.read_bytes())
        except (OSError, ValueError):
            return None

    def note(self, step: int) -> None:
        """Keep a step, if it is time. A storage that refuses is no reason to stop."""
        began = time.monotonic()
        if began < self._next:
            return
        try:
            self._path.write_text(
                ReachedStep(attempt=self._attempt, step=step).model_dump_json(by_alias=True)
            )
        except OSError as error:
            logger.debug(f"{self._path} cannot be written: {error}")
        now = time.monotonic()
        self._next = now + max(_PAUSE, _SHARE * (now - began))
