"""Runs programs of users, in the folder of a model and without our packages."""

import atexit
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory


def run_plain(code: str, folder: Path, *arguments: str, given: str = "") -> str:
    """What the program prints; it has to succeed."""
    server = _server()
    assert server.stdin
    assert server.stdout
    with TemporaryDirectory() as made:
        output, errors = (Path(made) / name for name in ("output", "errors"))
        asked = {"code": code, "folder": str(folder), "arguments": arguments, "input": given}
        server.stdin.write(json.dumps(asked | {"output": str(output), "errors": str(errors)}) + "\n")
        server.stdin.flush()
        assert server.stdout.readline() == "0\n", errors.read_text()[-2000:]
        return output.read_text()


@cache
def _server() -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", str(Path(__file__).with_name("plain_server.py"))]
    server = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.kill)
    return server
