"""TRL's command line, started on this machine as the two pods of an attempt would start it."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from builders import script_job
from ports import free_port
from unit.operator.test_several_nodes import container, variables
from unit.operator.worlds import files, planned
from unit.trainer.architectures import build

PATIENCE = 600
ROWS, STEPS, BATCH = 16, 2, 2


def test_trl_sft_of_two_pods_trains_in_one_world(tmp_path: Path) -> None:
    model = build("llama", tmp_path / "model")
    data, output = tmp_path / "data", tmp_path / "output"
    data.mkdir()
    rows = (json.dumps({"text": f"the film {number} is good"}) for number in range(ROWS))
    (data / "train.jsonl").write_text("\n".join(rows))
    options = {"model_name_or_path": model, "dataset_name": data, "output_dir": output, "max_steps": STEPS}
    options |= {"per_device_train_batch_size": BATCH, "report_to": "none"}
    command = ["trl", "sft", "--use_cpu", *(f"--{name}={value}" for name, value in options.items())]
    made = planned(script_job(command=command, resources={"nodes": 2, "gpusPerNode": 0}))
    port = free_port()
    pods = [started(made, rank, port, tmp_path) for rank in range(2)]
    codes = [pod.wait(PATIENCE) for pod in pods]
    assert codes == [0, 0], [(tmp_path / f"log-{rank}").read_text()[-3000:] for rank in range(2)]
    (state,) = output.glob("checkpoint-*/trainer_state.json")
    seen = json.loads(state.read_text())["epoch"] * ROWS
    assert seen == 2 * BATCH * STEPS, "each process has half of every batch"


def started(made: Any, rank: int, port: int, folder: Path) -> subprocess.Popen[bytes]:
    """The pod's command with its environment and accelerate's configuration, at an address of this machine."""
    env = variables(made, rank)
    first = env["MASTER_ADDR"]
    (mount,) = [one for one in container(made)["volumeMounts"] if "subPathExpr" in one]
    config = json.loads(
        files(made, mount["name"])[mount["subPathExpr"].replace("$(PET_NODE_RANK)", str(rank))]
    )
    assert config["main_process_ip"] == first
    home = folder / f"home-{rank}"
    (home / "accelerate").mkdir(parents=True)
    here = json.dumps(config | {"main_process_ip": "127.0.0.1", "main_process_port": port})
    (home / "accelerate" / "default_config.yaml").write_text(here)
    local = {"HF_HOME": str(home), "HOME": str(home), "PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1"}
    given = {name: "127.0.0.1" if value == first else value for name, value in env.items()}
    given |= {name: str(port) for name in given if name.endswith("MASTER_PORT")}
    command = container(made)["command"]
    program = shutil.which(command[0])
    assert program
    with (folder / f"log-{rank}").open("wb") as log:
        return subprocess.Popen([program, *command[1:]], env=given | local, stdout=log, stderr=log)
