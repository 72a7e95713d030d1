"""Commands of the documentation, to run them as a user does."""

import os
import subprocess
from pathlib import Path

from finetune_cluster.binaries import binary
from integration.operator_rig import ROOT

FENCE = "```"


def commands(page: str, with_text: str, **replaced: str) -> list[str]:
    """The one bash block of a page with this text, command by command, with names replaced."""
    parts = (ROOT / "docs" / page).read_text().split(FENCE)
    (block,) = [part for part in parts[1::2] if part.startswith("bash\n") and with_text in part]
    text = block.removeprefix("bash\n").replace("\\\n", " ")
    for old, new in replaced.items():
        old = old.replace("_", "-")
        assert old in text, f"{old} is not in the block of {page} with {with_text}"
        text = text.replace(old, new)
    return text.strip().splitlines()


def shell(command: str, kubeconfig: Path, folder: Path) -> str:
    """Run a command, which has to succeed, and return what it prints."""
    path = f"{binary('kubectl').parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        env={"PATH": path, "KUBECONFIG": str(kubeconfig), "HOME": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout
