"""Which cluster CLUSTER=auto has chosen, until it is stopped: every later command is about the same one."""

from pathlib import Path

from finetune_cluster import folders


def remember(kind: str) -> None:
    file = _file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(kind)


def recall() -> str:
    """An empty string if none was started."""
    return _file().read_text() if _file().exists() else ""


def forget() -> None:
    _file().unlink(missing_ok=True)


def _file() -> Path:
    return folders.state().with_name("chosen")
