"""A Python that has imported what published models are loaded with, and is forked for every program it is given.

A line of standard input is a program with its folder, arguments, input and files for what it prints; the answer is
its exit code.
"""

import io
import json
import os
import sys
import traceback
from importlib.util import find_spec
from typing import Any

import peft  # noqa: F401
import torch
import transformers  # noqa: F401


def run(asked: dict[str, Any]) -> int:
    """0, or 1 with the traceback among the errors."""
    for number, name in ((1, "output"), (2, "errors")):
        os.dup2(os.open(asked[name], os.O_WRONLY | os.O_CREAT), number)
    os.chdir(asked["folder"])
    sys.path.insert(0, "")
    sys.argv, sys.stdin = ["-c", *asked["arguments"]], io.StringIO(asked["input"])
    try:
        exec(compile(asked["code"], "<a user's program>", "exec"), {"__name__": "__main__"})
    except BaseException:  # noqa: BLE001 - it is the answer
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    assert find_spec("finetune_trainer") is None, "models are to be loaded without our packages"
    torch.set_num_threads(1)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(run(json.loads(line)))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
