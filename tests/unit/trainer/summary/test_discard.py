"""Models that are not kept are removed, and nothing else is: with links, foreign files, and a kill at every moment."""

import json
import os
import signal
from hashlib import sha256

import pytest

from finetune_trainer.errors import StoppedError
from finetune_trainer.process.stop import Stop
from finetune_trainer.summary import discard
from finetune_trainer.summary.discard import remove_discarded
from unit.trainer.forks import fork
from unit.trainer.summary.searches import history, trial

NAME = "tune-1c9d2f7a-t001"


def model(folder, name=NAME, namespace="team"):
    """A folder as the trainer publishes it, with a subfolder; returns its size."""
    (folder / "members" / "0").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "members" / "0" / "model.safetensors").write_bytes(b"x" * 3000)
    record = {"job": {"name": name, "namespace": namespace}, "fingerprint": "f", "report": {"version": 1}}
    (folder / "run.json").write_text(json.dumps(record))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines))
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def removed(*folders, **changes):
    made = history(trial(1, 0.7), trial(2, 0.8), discard=[str(folder) for folder in folders], **changes)
    return remove_discarded(made, "team", Stop())


def test_the_models_of_trials_and_repetitions_are_removed_and_counted(tmp_path):
    sizes = [model(tmp_path / "t001"), model(tmp_path / "c1s2", name="tune-1c9d2f7a-c1s2")]
    found = removed(tmp_path / "t001", tmp_path / "c1s2", repetitions=["tune-1c9d2f7a-c1s2"])
    assert (found.folders, found.freed, found.kept) == (2, sum(sizes), [])
    assert found.said == f"removed 2 models of trials, which freed {sum(sizes) / 1000:.3g} kB"
    assert list(tmp_path.iterdir()) == []


def test_a_second_removal_finds_nothing_and_says_nothing(tmp_path):
    model(tmp_path / "t001")
    removed(tmp_path / "t001")
    found = removed(tmp_path / "t001")
    assert (found.folders, found.kept) == (0, [])


def test_the_model_of_another_job_stays(tmp_path):
    model(tmp_path / "other", name="other-1c9d2f7a-t001")
    model(tmp_path / "elsewhere", namespace="another-team")
    found = removed(tmp_path / "other", tmp_path / "elsewhere")
    assert found.folders == 0
    assert "the model of job team/other-1c9d2f7a-t001, no trial of this search" in found.kept[0]
    assert (tmp_path / "other" / "config.json").exists()
    assert (tmp_path / "elsewhere" / "config.json").exists()


@pytest.mark.parametrize("place", ["notes.txt", "members/0/notes.txt", "mine/notes.txt"])
def test_a_folder_with_something_else_in_it_stays_whole(tmp_path, place):
    model(tmp_path / "t001")
    (tmp_path / "t001" / place).parent.mkdir(exist_ok=True)
    (tmp_path / "t001" / place).write_text("mine")
    found = removed(tmp_path / "t001")
    assert found.folders == 0
    assert found.kept == [
        f"{tmp_path / 't001'} was not removed: {place} in it is not part of the model (1 files)"
    ]
    assert (tmp_path / "t001" / "config.json").exists()


def test_what_a_link_points_to_stays(tmp_path):
    model(tmp_path / "kept")
    (tmp_path / "t001").symlink_to(tmp_path / "kept")
    found = removed(tmp_path / "t001")
    assert found.kept == [f"{tmp_path / 't001'} was not removed: it is a link"]
    model(tmp_path / "t002")
    (tmp_path / "t002" / "members" / "1").symlink_to(tmp_path / "kept")
    found = removed(tmp_path / "t002")
    assert found.kept == [f"{tmp_path / 't002'} was not removed: members/1 in it is a link"]
    assert (tmp_path / "kept" / "members" / "0" / "model.safetensors").exists()


def test_what_is_no_model_stays(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text("{}")
    (tmp_path / "file").write_text("x")
    found = removed(tmp_path / "data", tmp_path / "file", tmp_path)
    assert [one.partition(": ")[2] for one in found.kept] == [
        "it has no run.json of a trial",
        "it is no folder",
        "it has no run.json of a trial",
    ]
    assert (tmp_path / "data" / "rows.jsonl").exists()


def test_a_removal_that_is_killed_at_any_moment_is_finished_by_the_next(tmp_path, monkeypatch):
    """The folder loses one name after the other; after each the process may be gone."""
    for moment in range(1, 10):
        folder = tmp_path / f"{moment}" / "t001"
        model(folder)

        def body(folder=folder, moment=moment):
            left = [moment]

            def killing(call):
                def called(*arguments, **options):
                    left[0] -= 1
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return call(*arguments, **options)

                return called

            for name in ("unlink", "rmdir"):
                setattr(discard.Path, name, killing(getattr(discard.Path, name)))
            removed(folder)
            return 0

        status = os.waitstatus_to_exitcode(os.waitpid(fork(body, tmp_path / "log"), 0)[1])
        names = 2 + 2 + 2 + 1  # files, folders in it, records, the folder
        assert status == (-signal.SIGKILL if moment <= names else 0)
        assert folder.exists() is (moment <= names)
        assert removed(folder).kept == []
        assert not folder.exists()


def test_a_signal_ends_between_two_folders(tmp_path):
    model(tmp_path / "t001")
    made = history(trial(1, 0.7), discard=[str(tmp_path / "t001")])
    with pytest.raises(StoppedError, match="stopped by SIGTERM before all models"):
        remove_discarded(made, "team", Stop(requested=True))
    assert (tmp_path / "t001" / "config.json").exists()
