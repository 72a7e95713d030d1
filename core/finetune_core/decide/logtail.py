"""What a log's end says, for a message: the last line first, as the columns of kubectl show one line. Pure."""

import re

_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_LENGTH = 600


def log_tail(text: str) -> str:
    """The last line of a log, and under it the lines before; without colours and overwritten progress bars."""
    lines = [shown for line in _ESCAPES.sub("", text).split("\n") if (shown := _shown(line))]
    if not lines:
        return ""
    last = lines[-1][-_LENGTH:]
    before = "\n".join(lines[:-1])[-max(0, _LENGTH - len(last)) :] if len(last) < _LENGTH else ""
    return f"{last}\n{before}" if before else last


def _shown(line: str) -> str:
    """What a terminal shows of a line: what follows its last carriage return."""
    parts = [part for part in line.split("\r") if part.strip()]
    return _CONTROL.sub("", parts[-1]).strip() if parts else ""
