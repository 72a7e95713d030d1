"""An ensemble of a search's best trials: the search's report is written, and models that are not kept are removed."""

import shutil

import pytest

from finetune_api.run import ExitCode
from finetune_trainer.publishing.folder import integrity_errors
from unit.trainer.summary.searches import searched, trial


@pytest.fixture
def trials(train, tmp_path):
    """The folders of two trials of a search."""
    folders = []
    for number in (1, 2):
        name = trial(number)["name"]
        trained = train(name, number, job={"name": name, "namespace": "local", "uid": name})
        folders.append(tmp_path / "trials" / name)
        shutil.copytree(trained, folders[-1])
    return folders


def test_the_report_says_what_the_model_is_and_the_members_folders_go(combine, trials, tmp_path):
    report_dir, page = tmp_path / "report", tmp_path / "report" / "report.html"
    discard = [str(folder) for folder in trials]
    search = searched(trial(1, 0.7), trial(2, 0.9), reportDir=str(report_dir), discard=discard)
    code, report, model = combine(trials, "AverageProbabilities", search=search)
    assert code == ExitCode.DONE, report.message
    found, _, removed = report.message.rpartition("; ")
    assert removed.startswith("removed 2 models of trials, which freed ")
    assert f"<p>The model: {found}.</p>" in page.read_text()
    assert "<p>The best is trial 2 with eval_accuracy 0.9.</p>" in page.read_text()
    assert not any(folder.exists() for folder in trials)
    assert integrity_errors(model) == []
    before = {path.name: path.stat().st_mtime_ns for path in report_dir.iterdir()}
    code, again, _ = combine(trials, "AverageProbabilities", search=search)
    assert (code, again.message, again.model) == (ExitCode.DONE, found, report.model)
    assert {path.name: path.stat().st_mtime_ns for path in report_dir.iterdir()} == before


def test_a_report_inside_the_model_is_refused(combine, trials, tmp_path):
    search = searched(trial(1, 0.7), trial(2, 0.9), reportDir=str(tmp_path / "combined" / "model" / "report"))
    code, report, model = combine(trials, "Vote", search=search)
    assert (code, report.place.field) == (ExitCode.CONFIGURATION, "search.reportDir")
    assert not model.exists()
