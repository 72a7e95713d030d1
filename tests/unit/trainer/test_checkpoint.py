"""Checkpoints: whole or not there, verified, fenced, and only the needed ones kept."""

import json

import pytest

from finetune_trainer.checkpoint import Checkpoints
from finetune_trainer.errors import StoppedError, StorageError


def tensors(value):
    import torch

    return {"model": {"weight": torch.full((4,), float(value))}, "random": {"torch": torch.arange(3)}}


def store(folder, attempt=1, keep=2, fingerprint="same"):
    said = []
    checkpoints = Checkpoints(folder, attempt, keep, said.append)
    checkpoints.fingerprint = fingerprint
    checkpoints.claim()
    return checkpoints, said


def saved(folder, steps, best=None, **options):
    checkpoints, _ = store(folder, **options)
    for step in steps:
        checkpoints.save(step, tensors(step), {"step": step}, best)
    return checkpoints


def names(folder):
    return sorted(path.name for path in folder.glob("step-*"))


def test_a_checkpoint_reads_back_as_it_was_written(tmp_path):
    import torch

    saved(tmp_path, [400])
    loaded = store(tmp_path)[0].newest()
    assert (loaded.step, loaded.state) == (400, {"step": 400})
    assert torch.equal(loaded.tensors["model"]["weight"], torch.full((4,), 400.0))
    manifest = json.loads((tmp_path / "step-00000400" / "manifest.json").read_text())
    assert sorted(manifest["files"]) == ["model.safetensors", "random.safetensors", "state.json"]
    assert manifest["step"] == 400
    assert "torch" in manifest["environment"]


def test_a_checkpoint_from_other_versions_or_threads_is_used_and_it_says_so(tmp_path):
    saved(tmp_path, [10])
    checkpoints, said = store(tmp_path)
    checkpoints.environment = checkpoints.environment | {"torch": "9.9", "threads": "4"}
    assert checkpoints.newest().step == 10
    assert "threads none → 4, torch" in said[0]
    assert said[0].endswith("→ 9.9")


def truncate(path):
    (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-4])


def flip_a_byte(path):
    content = bytearray((path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "model.safetensors").write_bytes(content)


DAMAGES = {
    "model.safetensors is damaged": flip_a_byte,
    "model.safetensors is damaged (": truncate,
    "manifest.json is missing": lambda path: (path / "manifest.json").unlink(),
    "state.json is missing": lambda path: (path / "state.json").unlink(),
    "manifest.json cannot be read": lambda path: (path / "manifest.json").write_text("{"),
}


@pytest.mark.parametrize("why", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_it_says_so(tmp_path, why):
    saved(tmp_path, [10, 20])
    DAMAGES[why](tmp_path / "step-00000020")
    checkpoints, said = store(tmp_path)
    assert checkpoints.newest().step == 10
    assert len(said) == 1
    assert said[0].startswith(f"checkpoint step-00000020 is passed over: {why}")
    checkpoints.save(20, tensors(20), {"step": 20}, None)
    assert store(tmp_path)[0].newest().step == 20


def test_without_a_whole_checkpoint_there_is_none(tmp_path):
    saved(tmp_path, [10])
    flip_a_byte(tmp_path / "step-00000010")
    assert store(tmp_path)[0].newest() is None


def test_a_checkpoint_of_another_configuration_or_data_is_not_used(tmp_path):
    saved(tmp_path, [10], fingerprint="other")
    checkpoints, said = store(tmp_path)
    assert checkpoints.newest() is None
    assert "another configuration or other data" in said[0]


def test_a_checkpoint_of_another_format_is_passed_over(tmp_path):
    saved(tmp_path, [10])
    path = tmp_path / "step-00000010" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
    checkpoints, said = store(tmp_path)
    assert checkpoints.newest() is None
    assert "its format is 2, and this trainer reads 1" in said[0]
    checkpoints.save(2, tensors(2), {}, None)
    assert names(tmp_path) == ["step-00000002"]


def test_the_newest_and_the_best_are_kept(tmp_path):
    saved(tmp_path, [1, 2, 3, 4, 5], best=2, keep=2)
    assert names(tmp_path) == ["step-00000002", "step-00000004", "step-00000005"]


def test_an_older_attempt_writes_nothing_once_a_newer_one_owns_the_folder(tmp_path):
    zombie = saved(tmp_path, [10], attempt=1)
    newer, _ = store(tmp_path, attempt=2)
    newer.newest()
    newer.save(20, tensors(20), {}, None)
    with pytest.raises(StoppedError, match=r"attempt 2 now owns .* attempt 1 writes nothing more"):
        zombie.save(30, tensors(30), {}, None)
    with pytest.raises(StoppedError):
        zombie.remove_all()
    with pytest.raises(StoppedError, match="attempt 2"):
        store(tmp_path, attempt=1)
    assert names(tmp_path) == ["step-00000010", "step-00000020"]
    newer.remove_all()
    with pytest.raises(StoppedError, match="another process"):
        zombie.save(30, tensors(30), {}, None)
    assert not tmp_path.exists()


def test_what_a_crash_left_half_written_is_cleared_away(tmp_path):
    (tmp_path / ".writing-abc").mkdir()
    (tmp_path / ".writing-abc" / "model.safetensors").write_bytes(b"x")
    saved(tmp_path, [1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["owner.json", "step-00000001"]


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Not a directory; check the volume"):
        store(tmp_path / "file" / "checkpoints")
