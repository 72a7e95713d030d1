"""Holds rank 0 of newly started processes, in which no test can call anything, before one of its checkpoints."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

SITE = """
import os, sys, time

def hold(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("/step-{step:08}"):
        while not os.path.exists("{go}"):
            time.sleep(0.02)

sys.addaudithook(hold)
"""
"""Python imports `sitecustomize` at its start."""


@dataclass(frozen=True)
class Hold:
    """The run has saved what comes before `step`, and does not go on before it is released."""

    folder: Path
    step: int

    @property
    def path(self) -> str:
        """PYTHONPATH of a held process."""
        self.folder.mkdir(exist_ok=True)
        site = SITE.format(step=self.step, go=self.folder / "go")
        (self.folder / "sitecustomize.py").write_text(site)
        return os.pathsep.join([str(self.folder), *filter(None, sys.path)])

    def release(self) -> None:
        (self.folder / "go").touch()
