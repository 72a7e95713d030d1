"""Checkpoints in parts: each rank writes its own, and any number of ranks reads them."""

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest

from finetune_api.run import ExitCode
from finetune_api.training import Sharding
from finetune_trainer.distributed import Ranks, full_tensor
from unit.trainer.checkpoints.test_checkpoint import damaged
from unit.trainer.logs import messages
from unit.trainer.runs import a_run, checkpoints_in, largest_difference, on_ranks, weights
from unit.trainer.test_sharding import planned, sharded, tensors
from unit.trainer.training.test_crash import die, do_at

PLAN = {
    "maxSteps": 4,
    "batchSize": 8,
    "microBatchSize": 2,
    "optimizer": {"name": "AdamW", "learningRate": 1e-3},
    "ema": {"decay": 0.9},
    "checkpoint": {"every": {"steps": 2}},
}
STEP = "step-00000004"


def everything(run):
    """Weights, moments and averages, whole, by name."""
    names = {value: name for name, value in run.task.model.named_parameters()}
    found = weights(run)
    for parameter, values in run.optimizer.state.items():
        for key, value in values.items():
            found[f"{names[parameter]}/{key}"] = full_tensor(value).clone().numpy()
    average = run.average.capture().items()
    return found | {f"ema/{name}": full_tensor(value).clone().numpy() for name, value in average}


def trained(folder, ranks=None):
    """A run with its checkpoints, and all of its tensors at the end."""
    from finetune_trainer.training.loop import train

    run, state = a_run("classification", ranks, **PLAN)
    run.checkpoints = checkpoints_in(folder, run)
    train(run, state)
    return run, everything(run)


def restored(folder, ranks=None):
    """All tensors of a new run, from its newest checkpoint."""
    run, _ = a_run("classification", ranks, **PLAN)
    assert checkpoints_in(folder, run).restore().step == 4
    return everything(run)


@pytest.mark.parametrize(("wrote", "reads"), [(2, 4), (4, 3), (3, 1), (1, 2)])
def test_another_number_of_ranks_reads_the_same_numbers(tmp_path, wrote, reads):
    """Of 3 ranks the last has fewer rows, and of vectors of 3 numbers four ranks have none; 1 writes one whole file."""
    folder = tmp_path / "checkpoints"

    def write(ranks):
        return trained(folder, ranks)[1]

    def read(ranks):
        return restored(folder, ranks)

    expected = trained(folder)[1] if wrote == 1 else on_ranks(wrote, write, tmp_path, Sharding.FULL)[0]
    files = {path.name for path in (folder / STEP).iterdir()}
    assert ("model" in files, "model.safetensors" in files) == (wrote > 1, wrote == 1)
    for found in [restored(folder)] if reads == 1 else on_ranks(reads, read, tmp_path, Sharding.FULL):
        assert largest_difference(expected, found) == 0


def test_a_rank_writes_its_own_rows_and_no_more(tmp_path):
    """The reader of torch puts them together to what the model has."""
    folder = tmp_path / "checkpoints"

    def write(ranks):
        run, found = trained(folder, ranks)
        own = sum(each.to_local().numel() for each in run.task.model.parameters())
        shapes = {name: list(value.shape) for name, value in run.task.model.named_parameters()}
        return found, own, shapes

    answers = on_ranks(2, write, tmp_path, Sharding.FULL)
    expected, _, shapes = answers[0]
    paths = sorted((folder / STEP / "model").iterdir())
    assert [path.name for path in paths] == ["00001-of-00002.safetensors", "00002-of-00002.safetensors"]
    parts = [{name: value for name, value in read(path).items() if name in shapes} for path in paths]
    for part, (_, own, _) in zip(parts, answers, strict=True):
        assert sum(value.numel() for value in part.values()) == own
    moments = [set(read(folder / STEP / "optimizer" / path.name)) for path in paths]
    steps = [{name for name in part if name.endswith("/step")} for part in moments]
    assert len(steps[0]) == len(shapes)  # what is no shard is written once
    assert not steps[1]
    for name in shapes:
        together = np.concatenate([part[name].numpy() for part in parts if name in part])
        assert np.array_equal(together, expected[name])
    manifest = json.loads((folder / STEP / "manifest.json").read_text())
    assert manifest["version"] == 2
    assert len([name for name in manifest["files"] if re.fullmatch("(model|optimizer|ema)/.*", name)]) == 6


def read(path):
    """A file of safetensors."""
    from safetensors.torch import load_file

    return load_file(path)


@pytest.mark.parametrize("how", ["truncated", "middle byte"])
def test_a_damaged_part_sends_all_ranks_back_to_the_checkpoint_before(tmp_path, how):
    folder = tmp_path / "checkpoints"
    on_ranks(2, lambda ranks: trained(folder, ranks)[1], tmp_path, Sharding.FULL)
    part = folder / STEP / "optimizer" / "00002-of-00002.safetensors"
    part.write_bytes(damaged(part.read_bytes(), how))

    def read_again(ranks):
        said = messages()
        run, _ = a_run("classification", ranks, **PLAN)
        step = checkpoints_in(folder, run).restore().step
        return step, [each for each in said if "skipped" in each]

    (step, said), (theirs, _) = on_ranks(2, read_again, tmp_path, Sharding.FULL)
    assert (step, theirs) == (2, 2)
    assert len(said) == 1
    assert said[0].startswith(
        f"checkpoint {STEP} is skipped: optimizer/00002-of-00002.safetensors is damaged"
    )
    assert not (folder / STEP).exists()


def test_torch_itself_joins_the_parts(tmp_path):
    from torch.distributed.checkpoint._consolidate_hf_safetensors import consolidate_safetensors_files

    folder, joined = tmp_path / "checkpoints", tmp_path / "joined"
    expected = on_ranks(2, lambda ranks: trained(folder, ranks)[1], tmp_path, Sharding.FULL)[0]
    parts = folder / STEP / "model"
    names = {name for path in parts.iterdir() for name in read(path)}
    joined.mkdir()
    consolidate_safetensors_files(str(parts), str(joined), dict.fromkeys(names, 1))
    (path,) = joined.glob("*.safetensors")
    found = read(path)
    assert found.keys() == names
    assert all(np.array_equal(found[name].numpy(), expected[name]) for name in names & expected.keys())


@pytest.mark.parametrize("number", [1, 4, 7])
def test_a_rank_that_is_killed_inside_a_save_leaves_the_checkpoint_before_and_the_same_bytes(
    make_job, number
):
    """At a flush of its part; rank 0 waits, writes no manifest, and ends."""
    plan = "gradual unfreezing"
    undisturbed, killed = (
        sharded(planned(make_job, "whole", plan)),
        sharded(planned(make_job, "killed", plan)),
    )
    killed = killed.changed({"training": {"checkpoint": {"keep": 3}}})
    assert undisturbed.run_ranks() == [ExitCode.DONE] * 2, undisturbed.log
    codes = killed.run_ranks(before=lambda rank: rank and do_at("save", number, die))
    assert codes == [ExitCode.PEER_LOST, -signal.SIGKILL], killed.log
    left = sorted(path.parent.name for path in killed.checkpoint_dir.glob("step-*/manifest.json"))
    assert left == ([] if number <= 4 else ["step-00000005"])
    assert len(list(killed.checkpoint_dir.glob(".writing-*"))) == 1
    assert killed.run_ranks() == [ExitCode.DONE] * 2, killed.log
    assert killed.report_of(0).from_step == (0 if number <= 4 else 5)
    assert largest_difference(arrays(undisturbed), arrays(killed)) == 0


def arrays(made):
    return {name: value.numpy() for name, value in tensors(made).items()}


def test_a_full_disk_on_one_rank_ends_with_that_error(make_job):
    made = sharded(planned(make_job, "full", "LoRA"))

    def full(*_):
        raise OSError(28, os.strerror(28))

    codes = made.run_ranks(before=lambda rank: rank and do_at("save", 1, full))
    assert codes == [ExitCode.PEER_LOST, ExitCode.STORAGE], made.log
    assert "the checkpoint of step 5 could not be written" in made.report_of(1).message
    assert "No space left on device" in made.report_of(1).message


def test_a_single_process_writes_the_files_that_it_always_did(tmp_path):
    run, _ = trained(tmp_path / "checkpoints", Ranks())
    files = sorted(path.name for path in Path(run.checkpoints.store.folder / STEP).iterdir())
    assert files == [
        "ema.safetensors",
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "random.safetensors",
        "state.json",
    ]
    assert json.loads((run.checkpoints.store.folder / STEP / "manifest.json").read_text())["version"] == 1
