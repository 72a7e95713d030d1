"""No model is published inside another's folder, or around it: the outer one would no longer match its SHA256SUMS."""

import pytest

from finetune_api.run import ExitCode, FaultPlace
from finetune_trainer.publishing import folder as publishing


def placed(made, uri: str):
    """A job that publishes there, in a folder that stands for the claim `models`."""
    path, claim = uri.removeprefix("pvc://models/"), made.folder / "claim"
    name = path.replace("/", "-")
    own = claim / ".finetune" / name
    output = {"modelDir": claim / path, "stagingDir": own / "model", "checkpointDir": own / "checkpoints"}
    return made.changed(
        {
            "job": {"uid": name, "name": name},
            "training": {"epochs": 1},
            "output": {"uri": uri} | {field: str(folder) for field, folder in output.items()},
        }
    )


@pytest.mark.parametrize("inner", ["pvc://models/team/x/y", "pvc://models/team/x/y/z"])
def test_nothing_is_trained_for_a_folder_inside_a_published_model(make_job, inner):
    made = make_job()
    published, refused = placed(made, "pvc://models/team/x"), placed(made, inner)
    assert published.run() == ExitCode.DONE
    assert refused.run() == ExitCode.NOT_FOUND
    assert refused.report.message == (
        f"output.uri: {inner} is inside pvc://models/team/x, which holds the model of job local/team-x; choose another"
        " output.uri"
    )
    assert refused.report.place == FaultPlace(field="output.uri", file=inner)
    folders = {path.name for path in (made.folder / "claim").rglob("*") if path.is_dir()}
    assert folders == {"team", "x"}
    assert published.run() == ExitCode.DONE


def test_nothing_is_trained_for_a_folder_with_published_models(make_job):
    made = make_job()
    published, around = placed(made, "pvc://models/team/x"), placed(made, "pvc://models/team")
    assert published.run() == ExitCode.DONE
    assert around.run() == ExitCode.NOT_FOUND
    assert around.report.message == (
        "output.uri: pvc://models/team is not empty and is not the model of a job; choose another output.uri"
    )
    assert not (made.folder / "claim" / ".finetune").exists()
    assert published.run() == ExitCode.DONE


def test_a_model_that_is_published_around_the_folder_meanwhile_stays_whole(make_job, monkeypatch):
    made = make_job()
    outer, inner = placed(made, "pvc://models/x"), placed(made, "pvc://models/x/y/z")
    stage, staged = publishing._stage, []

    def stage_and_see_another_published(*given):
        staged.append(stage(*given))
        if len(staged) == 1:
            assert outer.run() == ExitCode.DONE
        return staged[0]

    monkeypatch.setattr(publishing, "_stage", stage_and_see_another_published)
    assert inner.run() == ExitCode.NOT_FOUND
    assert "pvc://models/x/y/z is inside pvc://models/x, which" in inner.report.message
    assert not (outer.folder / "claim" / "x" / "y").exists()
    assert outer.run() == ExitCode.DONE


def test_a_model_beside_others_is_published(make_job):
    made = make_job()
    for uri in ("pvc://models/team/x", "pvc://models/team/x-trials/t001", "pvc://models/team/xy"):
        assert placed(made, uri).run() == ExitCode.DONE
