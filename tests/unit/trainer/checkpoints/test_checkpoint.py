"""Checkpoints: whole or not there, verified, fenced, and only the needed ones kept."""

import json
import os
from pathlib import Path

import pytest

from finetune_trainer.checkpoints.fence import Fence
from finetune_trainer.checkpoints.folder import path_of, remove_all
from finetune_trainer.checkpoints.store import CheckpointStore
from finetune_trainer.errors import StoppedError, StorageError
from unit.trainer.logs import messages


def tensors(value):
    import torch

    return {"model": {"weight": torch.full((4,), float(value))}, "random": {"torch": torch.arange(3)}}


def store(folder, attempt=1, keep=2, fingerprint="same", **environment):
    said, fence = messages(), Fence(folder, attempt)
    fence.claim()
    return CheckpointStore(fence, fingerprint, {"torch": "2.0"} | environment, keep), said


def saved(folder, steps, best=None, **options):
    checkpoints, _ = store(folder, **options)
    for step in steps:
        checkpoints.save(step, tensors(step), {"step": step}, best)
    return checkpoints


def names(folder):
    return sorted(path.name for path in folder.glob("step-*"))


def test_a_checkpoint_reads_back_as_it_was_written(tmp_path):
    import torch

    saved(tmp_path, [400], attempt=3)
    loaded = store(tmp_path, attempt=3)[0].newest()
    assert (loaded.step, loaded.state) == (400, {"step": 400})
    assert torch.equal(loaded.tensors["model"]["weight"], torch.full((4,), 400.0))
    manifest = json.loads((tmp_path / "step-00000400" / "manifest.json").read_text())
    assert sorted(manifest["files"]) == ["model.safetensors", "random.safetensors", "state.json"]
    assert (manifest["step"], manifest["attempt"], manifest["fingerprint"]) == (400, 3, "same")
    assert manifest["environment"] == {"torch": "2.0"}


CONTENT = ["model.safetensors", "random.safetensors", "state.json"]


def test_a_checkpoint_is_on_the_disk_before_its_manifest_and_the_manifest_before_its_name(
    tmp_path, monkeypatch
):
    """A power cut between any two of these calls leaves no folder that a whole manifest describes wrongly."""
    checkpoints, said = store(tmp_path)
    fsync, rename = os.fsync, os.rename

    def noted_fsync(file):
        path = Path(f"/proc/self/fd/{file}").readlink()
        inside = path != tmp_path and path.is_dir()
        said.append(("fsync", "the temporary folder" if inside else path.name, names_in(path.parent)))
        fsync(file)

    def noted_rename(source, target):
        said.append(("rename", Path(target).name, names_in(source)))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    checkpoints.save(400, tensors(400), {"step": 400}, None)
    written, manifest, renamed = said[:5], said[5:7], said[7:]
    assert [step[:2] for step in written] == [
        *(("fsync", name) for name in ("state.json", *CONTENT)),
        ("fsync", "the temporary folder"),
    ]
    assert all("manifest.json" not in there for *_, there in written)
    assert [step[:2] for step in manifest] == [("fsync", "manifest.json"), ("fsync", "the temporary folder")]
    assert renamed[0] == ("rename", "step-00000400", ["manifest.json", *CONTENT])
    assert {step[:2] for step in renamed[1:]} == {("fsync", tmp_path.name)}


def names_in(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_a_checkpoint_from_other_versions_or_threads_is_used_and_it_says_so(tmp_path):
    saved(tmp_path, [10])
    checkpoints, said = store(tmp_path, torch="9.9", threads="4")
    assert checkpoints.newest().step == 10
    assert said[0].endswith("threads none → 4, torch 2.0 → 9.9")


FILES = ["manifest.json", "model.safetensors", "random.safetensors", "state.json"]


def damaged(content, how):
    """A file's bytes, cut off or with one bit flipped."""
    if how == "truncated":
        return content[: len(content) // 2]
    place = {"first": 0, "middle": len(content) // 2, "last": len(content) - 3}[how.split()[0]]
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def passed_over(folder, why):
    checkpoints, said = store(folder)
    assert checkpoints.newest().step == 10
    assert len(said) == 1
    assert said[0].startswith(f"checkpoint step-00000020 is skipped: {why}")
    checkpoints.save(20, tensors(20), {"step": 20}, None)
    assert store(folder)[0].newest().step == 20


@pytest.mark.parametrize("how", ["truncated", "first byte", "middle byte", "last byte"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_sends_back_to_the_checkpoint_before_and_it_says_so(tmp_path, name, how):
    saved(tmp_path, [10, 20])
    path = tmp_path / "step-00000020" / name
    path.write_bytes(damaged(path.read_bytes(), how))
    passed_over(tmp_path, name)


def test_every_byte_of_a_manifest_counts(tmp_path):
    saved(tmp_path, [10])
    path = path_of(tmp_path, 10) / "manifest.json"
    whole, (checkpoints, _) = path.read_bytes(), store(tmp_path)
    meaning = json.loads(whole)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert checkpoints.integrity_error(path.parent) or json.loads(path.read_bytes()) == meaning


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_sends_back_too(tmp_path, name):
    saved(tmp_path, [10, 20])
    (tmp_path / "step-00000020" / name).unlink()
    passed_over(tmp_path, f"{name} is missing")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "manifest.json cannot be read"),
        ("[]", "manifest.json cannot be read"),
        ("{}", "manifest.json cannot be read: 'version'"),
        ('{"version": 1}', "manifest.json cannot be read: 'sha256'"),
        ('{"version": 1, "sha256": "x"}', "manifest.json is damaged"),
        ('{"version": 3}', "its format is 3, and this trainer reads 1 and 2"),
    ],
)
def test_a_manifest_that_is_none_sends_back_too(tmp_path, text, why):
    saved(tmp_path, [10, 20])
    (tmp_path / "step-00000020" / "manifest.json").write_text(text)
    passed_over(tmp_path, why)


def test_an_empty_folder_and_one_of_a_stranger_are_no_checkpoints(tmp_path):
    saved(tmp_path, [10])
    (tmp_path / "step-00000020").mkdir()
    (tmp_path / "step-by-step").mkdir()
    passed_over(tmp_path, "manifest.json is missing")
    assert (tmp_path / "step-by-step").exists()


def test_without_a_whole_checkpoint_there_is_none(tmp_path):
    saved(tmp_path, [10])
    (tmp_path / "step-00000010" / "state.json").write_text("{}")
    assert store(tmp_path)[0].newest() is None


def test_a_checkpoint_of_another_configuration_or_data_is_not_used(tmp_path):
    saved(tmp_path, [10], fingerprint="other")
    checkpoints, said = store(tmp_path)
    assert checkpoints.newest() is None
    assert "another configuration or other data" in said[0]


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
        remove_all(zombie.fence)
    with pytest.raises(StoppedError, match="attempt 2"):
        store(tmp_path, attempt=1)
    assert names(tmp_path) == ["step-00000010", "step-00000020"]
    remove_all(newer.fence)
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
