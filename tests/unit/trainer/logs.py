"""What the trainer logs, as a list for a test to look at."""

import logging

from finetune_trainer.reporting.log import LOGGER


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.messages.append(record.getMessage())


def _listen() -> _Messages:
    handler, logger = _Messages(), logging.getLogger(LOGGER)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    return handler


def messages() -> list[str]:
    """Grows with every message from now on until the test ends."""
    return _listen().messages


def records() -> list[logging.LogRecord]:
    """Grows with every log record from now on until the test ends."""
    return _listen().records
