"""What the checkpoint folder holds: where the checkpoint of a step lies, and how all of them are removed."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from finetune_trainer.checkpoints.fence import TEMPORARY, Fence
from finetune_trainer.errors import storage_errors


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08}"


def steps_in(folder: Path) -> list[int]:
    """The steps of all folders that are named as checkpoints are."""
    named = (path.name.removeprefix("step-") for path in folder.glob("step-" + "[0-9]" * 8))
    return [int(number) for number in named]


def remove_all(fence: Fence, beside: Iterable[str] = ()) -> None:
    """Remove all checkpoints after success, and the named files and folders `beside` them.

    The folder goes too, unless something else is in it.
    """
    folder = fence.folder
    with storage_errors("the removal of the checkpoints", folder):
        fence.assert_owner()
        for path in [
            *(path_of(folder, step) for step in steps_in(folder)),
            *folder.glob(f"{TEMPORARY}*"),
            *(folder / name for name in beside),
        ]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        fence.release()
