"""The log of a run: one JSON object per line on stdout, each with a human-readable `message`."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

LOGGER = "finetune_trainer"
SILENT = logging.CRITICAL + 1
UNHELPFUL = {
    "torch.distributed.tensor._redistribute": "sequential all_gather operations will be performed",
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward from kernels-community",
}
"""Warnings of libraries, by their loggers, for which a user has no remedy: a part of the message."""


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; `extra={"facts": {...}}` of a call adds its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Keys: time, level, message, and the call's facts."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        return json.dumps(line, ensure_ascii=False)


def configure_logging(out: TextIO | None = None, *, quiet: bool = False) -> None:
    """Write the trainer's log to `out`, by default stdout; quiet for every rank but 0.

    Of the libraries' own logs, the warnings in UNHELPFUL are dropped.
    """
    handler = logging.StreamHandler(out or sys.stdout)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger(LOGGER)
    logger.handlers = [handler]
    logger.setLevel(SILENT if quiet else logging.INFO)
    for name in UNHELPFUL:
        logging.getLogger(name).addFilter(_helps)


def _helps(record: logging.LogRecord) -> bool:
    return UNHELPFUL[record.name] not in record.getMessage()
