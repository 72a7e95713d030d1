"""A whole summary: the winner becomes the job's model, the report is written, the other models go."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from finetune_api.run import ExitCode, RunReport
from finetune_api.summary import SummaryConfig
from finetune_trainer.config import run_identity
from finetune_trainer.publishing.folder import integrity_errors
from ports import free_port
from unit.trainer.forks import fork
from unit.trainer.reporting.test_progress import certificate, endpoint, spec  # noqa: F401
from unit.trainer.summary.searches import trial
from unit.trainer.test_bad_input import limit_files, obey_permissions


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def stamps(folder):
    """Everything that a change of a file would change, or of the names in a folder."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (folder, *folder.rglob("*"))}


def apart(made, before):
    """Run in a forked process; returns the exit code."""

    def body():
        before()
        return made.run()

    return os.waitstatus_to_exitcode(os.waitpid(fork(body, made.folder / "log"), 0)[1])


def test_the_best_trial_becomes_the_model_of_the_search(ended):
    assert ended.run() == ExitCode.DONE, ended.report.message
    source, copy = digests(ended.trials / "t002"), digests(ended.model_dir)
    rewritten = {"README.md", "run.json", "SHA256SUMS"}
    assert {name: copy[name] for name in source.keys() - rewritten} == {
        name: source[name] for name in source.keys() - rewritten
    }
    assert copy["trial.json"] == source["run.json"]
    assert copy.keys() - source.keys() == {"trial.json"}
    assert integrity_errors(ended.model_dir) == []
    checked = subprocess.run(
        ["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=ended.model_dir, check=False, capture_output=True
    )
    assert (checked.returncode, checked.stdout) == (0, b"")


def test_the_report_has_the_trials_metrics_and_the_new_folder(ended):
    ended.run()
    trial = json.loads((ended.trials / "t002" / "run.json").read_text())["report"]
    model = ended.report.model
    assert model.uri == "pvc://models/tune"
    assert (
        model.digest == f"sha256:{hashlib.sha256((ended.model_dir / 'SHA256SUMS').read_bytes()).hexdigest()}"
    )
    assert (model.metrics, model.format, model.base_model) == (
        trial["model"]["metrics"],
        trial["model"]["format"],
        trial["model"]["baseModel"],
    )
    assert model.to_json()["trainedAt"] == trial["model"]["trainedAt"]
    assert model.files == len(digests(ended.model_dir))
    assert ended.report.message == (
        "trial 2 of 3 is the best: eval_accuracy 0.9 with training.optimizer.learningRate 0.01, training.batchSize 32"
    )
    assert ended.report.resolved.to_json()["model"] == trial["resolved"]["model"]


def test_the_last_report_has_what_random_search_would_have_reached_if_ten_random_trials_succeeded(ended):
    assert ended.run() == ExitCode.DONE
    assert ended.report.random_search is None
    values = [0.7, 0.9, *(number / 20 for number in range(3, 13))]
    trials = [trial(number, value, seconds=60) for number, value in enumerate(values, start=1)]
    made = ended.changed(search={"trials": trials})
    assert made.run(attempt=2) == ExitCode.DONE, made.report.message
    found = made.report.random_search
    assert 0.15 <= found.low <= found.median <= found.high == 0.9
    assert (
        f"would have reached eval_accuracy {found.median:.4g}"
        in (made.report_dir / "report.html").read_text()
    )


def test_the_records_say_which_trial_of_which_search_it_is(ended):
    ended.run()
    record = json.loads((ended.model_dir / "run.json").read_text())
    trial = json.loads((ended.model_dir / "trial.json").read_text())
    assert record["job"]["name"] == "tune"
    assert record["config"] == trial["config"]
    assert record["trial"] == {
        "number": 2,
        "job": trial["job"],
        "uri": "pvc://models/trials/t002",
        "digest": ended.config["model"]["digest"],
    }
    card, before = ((folder / "README.md").read_text() for folder in (ended.model_dir, ended.trials / "t002"))
    said = "This model is trial 2 (`tune-1c9d2f7a-t002`) of the hyperparameter search `team/tune`"
    assert said in card
    assert set(before.splitlines()) <= set(card.splitlines())
    assert card.index("\n# tune-1c9d2f7a-t002\n") < card.index(said) < card.index("\n## Use\n")


def test_a_winner_that_repeats_a_trial_is_called_so(ended):
    name = "tune-1c9d2f7a-t002"
    search = ended.config["search"]
    search["trials"][1]["name"], search["repetitions"] = "tune-of-another-seed", [name]
    assert ended.run() == ExitCode.DONE
    assert f"This model is a repetition of trial 2 (`{name}`)" in (ended.model_dir / "README.md").read_text()


def test_the_model_is_loaded_as_that_of_the_trial_is(ended):
    import torch
    from transformers import AutoModelForSequenceClassification as Auto

    ended.run()
    both = [Auto.from_pretrained(folder).state_dict() for folder in (ended.model_dir, ended.trials / "t002")]
    assert all(torch.equal(both[0][name], tensor) for name, tensor in both[1].items())


def test_the_model_can_be_a_member_of_an_ensemble(ended):
    from finetune_api.combine import CombineConfig
    from finetune_trainer.combine.members import read_members

    ended.run()
    folders = [str(ended.model_dir), str(ended.trials / "t002")]
    config = {
        "kind": "CombineConfig",
        "job": {"name": "together"},
        "members": [{"path": folder} for folder in folders],
        "combine": "AverageProbabilities",
        "publish": "Always",
        "dataset": {"test": {"path": "rows"}},
        "objective": {"classification": {}},
        "output": {"modelDir": "m", "stagingDir": "s"},
    }
    first, second = read_members(CombineConfig.from_json(config))
    assert first.training == second.training  # by which rows that were trained on are known
    assert first.model.metrics == second.model.metrics


def test_a_second_run_changes_nothing(ended):
    made = ended.changed(search={"discard": [str(ended.trials / "t001")]})
    assert made.run() == ExitCode.DONE
    first, before = made.report, stamps(made.folder / "model") | stamps(made.folder / "report")
    assert made.run(attempt=2) == ExitCode.DONE
    assert stamps(made.folder / "model") | stamps(made.folder / "report") == before
    assert (made.report.model, made.report.resolved) == (first.model, first.resolved)
    assert first.message == f"{made.report.message}; removed 1 model of trials, which freed {freed(made)}"


def freed(made):
    total = sum(path.stat().st_size for path in (made.trials / "t003").rglob("*") if path.is_file())
    return f"{total / 1000:.3g} kB"


def test_a_published_winner_is_known_again_after_an_update_of_the_trainer():
    golden = Path(__file__).parents[3] / "golden" / "summary-config-v1.json"
    given = json.loads(golden.read_text())["full"]
    known = "aa8e4d3e5388c9512764860a5fb94cc8a5a8d63adf92bacc6b1a7ea2de9939bf"
    assert run_identity(SummaryConfig.model_validate(given)) == known
    given["search"]["end"], given["job"]["attempt"] = "spec.search.maxDeviceSeconds of 9 used up", 7
    assert run_identity(SummaryConfig.model_validate(given)) == known
    given["model"]["digest"] = "sha256:1"
    assert run_identity(SummaryConfig.model_validate(given)) != known


def test_nothing_is_left_of_what_was_staged_and_of_the_tokens_that_trials_shared(ended):
    tokens = Path(ended.config["output"]["stagingDir"]).with_name("tokens")
    (tokens / "ab").mkdir(parents=True)
    ended.config["output"]["tokenDir"] = str(tokens)
    ended.run()
    assert sorted(path.name for path in ended.folder.iterdir()) == [
        "model",
        "report",
        "run.json",
        "termination",
        "trials",
    ]


def test_the_other_models_go_and_the_winners_own_if_asked(ended):
    everything = [str(ended.trials / f"t{number:03}") for number in (1, 2, 3)]
    made = ended.changed(search={"discard": everything})
    assert made.run() == ExitCode.DONE
    assert list(made.trials.iterdir()) == []
    assert "; removed 3 models of trials, which freed " in made.report.message
    assert integrity_errors(made.model_dir) == []
    assert made.run(attempt=2) == ExitCode.DONE  # its source is gone


def test_a_model_that_must_stay_is_named_in_the_last_message(ended):
    (ended.trials / "t001" / "notes.txt").write_text("mine")
    made = ended.changed(search={"discard": [str(ended.trials / "t001"), str(ended.trials / "t003")]})
    assert made.run() == ExitCode.DONE
    assert "t001 was not removed: notes.txt in it is not part of the model" in made.report.message
    assert "removed 1 model of trials" in made.report.message
    removed, stays = made.report.notes
    assert (removed.split(",")[0], "t001 was not removed" in stays) == ("removed 1 model of trials", True)
    assert (made.trials / "t001" / "notes.txt").read_text() == "mine"


def test_no_model_is_removed_before_the_winner_is_published(ended):
    (ended.trials / "t002" / "config.json").write_text("{}")
    made = ended.changed(search={"discard": [str(ended.trials / "t001")]})
    assert made.run() == ExitCode.NOT_FOUND
    assert (made.trials / "t001" / "run.json").exists()
    assert not made.report_dir.exists()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "model.safetensors is damaged"),
        (lambda folder: (folder / "extra").write_text("x"), "extra is not listed in SHA256SUMS"),
        (lambda folder: (folder / "SHA256SUMS").unlink(), "it has no SHA256SUMS and run.json"),
        (shutil.rmtree, "it has no SHA256SUMS and run.json"),
    ],
)
def test_a_damaged_winner_is_not_published(ended, spoil, says):
    spoil(ended.trials / "t002")
    assert ended.run() == ExitCode.NOT_FOUND
    assert says in ended.report.message
    assert ended.report.message.startswith("model: pvc://models/trials/t002, the model of the best trial,")
    assert ended.report.place.field == "model"
    assert not ended.model_dir.exists()


def test_a_winner_with_another_digest_is_not_published(ended):
    made = ended.changed(model={"digest": "sha256:" + "0" * 64})
    assert made.run() == ExitCode.NOT_FOUND
    assert "not the sha256:0000" in made.report.message


def test_a_folder_of_another_job_is_refused(ended, trained):
    shutil.copytree(trained, ended.model_dir)
    assert ended.run() == ExitCode.NOT_FOUND
    assert "holds the model of job team/tune-1c9d2f7a-t002" in ended.report.message
    assert digests(ended.model_dir) == digests(trained)


@pytest.mark.parametrize("place", ["model", "model/report"])
def test_a_report_inside_the_model_is_refused(ended, place):
    made = ended.changed(search={"reportDir": str(ended.folder / place)})
    assert made.run() == ExitCode.CONFIGURATION
    assert made.report.place.field == "search.reportDir"


def test_a_signal_before_the_copy_publishes_nothing(ended, monkeypatch):
    from finetune_trainer.summary import winner

    real = winner.verified

    def stopped(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(winner, "verified", stopped)
    assert ended.run() == ExitCode.INTERRUPTED
    assert ended.report.message == "stopped by SIGTERM while the best model was copied; nothing was published"
    assert not ended.model_dir.exists()
    monkeypatch.undo()
    assert ended.run(attempt=2) == ExitCode.DONE
    assert not (ended.folder / ".finetune").exists()


def test_a_copy_that_differs_from_the_trials_model_is_not_published(ended, monkeypatch):
    from finetune_trainer.summary import winner

    real = winner.shutil.copyfile

    def flipped(source, target):
        real(source, target)
        if source.name == "model.safetensors":
            content = target.read_bytes()
            target.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    monkeypatch.setattr(winner.shutil, "copyfile", flipped)
    assert ended.run() == ExitCode.STORAGE
    assert f"differs from {ended.trials / 't002'}: model.safetensors" in ended.report.message
    assert not ended.model_dir.exists()


def test_a_disk_that_is_full_is_a_storage_failure_for_the_model(ended):
    largest = max(path.stat().st_size for path in (ended.trials / "t002").iterdir())
    assert apart(ended, lambda: limit_files(largest - 1)) == ExitCode.STORAGE
    assert "the model could not be written" in ended.report.message
    assert not ended.model_dir.exists()
    assert ended.run(attempt=2) == ExitCode.DONE


def test_a_disk_that_is_full_is_a_storage_failure_for_the_report_and_the_next_attempt_writes_it(ended):
    assert ended.run() == ExitCode.DONE
    shutil.rmtree(ended.report_dir)
    made = ended.changed(search={"discard": [str(ended.trials / "t001")]})
    assert apart(made, lambda: limit_files(10_000)) == ExitCode.STORAGE
    assert "the report of the search could not be written" in made.report.message
    assert (made.trials / "t001").exists()
    assert made.run(attempt=3) == ExitCode.DONE
    assert (made.report_dir / "report.html").exists()
    assert not (made.trials / "t001").exists()


def test_a_model_that_may_not_be_removed_is_said(ended):
    made = ended.changed(search={"discard": [str(ended.trials / "t001")]})
    (made.folder / "termination").touch()
    (made.trials / "t001").chmod(0o555)
    made.trials.chmod(0o555)
    assert apart(made, obey_permissions) == ExitCode.DONE, (made.folder / "log").read_text()
    assert "t001 was not removed: it cannot be removed: Permission denied" in made.report.message
    for folder in (made.trials, made.trials / "t001"):
        folder.chmod(0o755)


def test_a_plot_that_fails_is_said_and_the_rest_is_there(ended, monkeypatch):
    import matplotlib.axes

    def broken(*_arguments, **_options):
        raise ValueError("no bars today")

    monkeypatch.setattr(matplotlib.axes.Axes, "barh", broken)
    made = ended.changed(search={"importances": {"training.batchSize": 1.0}})
    assert made.run() == ExitCode.DONE
    failed = "the plot importances of the report could not be drawn: ValueError: no bars today"
    assert failed in made.report.message
    assert sorted(path.name for path in made.report_dir.iterdir()) == [
        "history.png",
        "learning-curves.png",
        "parallel.png",
        "report.html",
    ]
    assert failed[1:] in (made.report_dir / "report.html").read_text()


def test_it_posts_its_end_and_serves_metrics(ended, tmp_path, certificate, endpoint, monkeypatch):  # noqa: F811
    from finetune_trainer.summary import run

    server, port, pages, real = endpoint(), free_port(), [], run.publish

    def publish(*arguments, **options):
        pages.append(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())
        return real(*arguments, **options)

    monkeypatch.setattr(run, "publish", publish)
    progress = spec(tmp_path, certificate, server.url).to_json()
    made = ended.changed(progress=progress, metricsPort=port)
    assert made.run(attempt=3) == ExitCode.DONE
    last = RunReport.model_validate(server.posts[-1][2]["runReport"])
    assert (last.exit_code, last.attempt, last.message) == (0, 3, made.report.message)
    assert last.model == made.report.model
    assert "finetune_train_memory_bytes" in pages[0]


def test_torch_is_not_imported(ended):
    code = (
        "import sys; from finetune_trainer.__main__ import main; code = main(sys.argv[1:]);"
        "assert not {'torch', 'transformers', 'pyarrow', 'huggingface_hub'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ended.write())], capture_output=True, text=True, check=False
    )
    assert done.returncode == ExitCode.DONE, done.stderr
    assert "finetune_trainer: done: trial 2 of 3 is the best" in done.stderr


def test_a_summary_that_is_killed_at_any_rename_is_finished_by_the_next(ended, tmp_path):
    """Every step of the way that others see is a rename: the model, each file of the report."""
    expected = None
    for moment in range(1, 8):
        for name in ("model", "report"):
            shutil.rmtree(ended.folder / name, ignore_errors=True)

        def kill_at(moment=moment):
            left, names = [moment], ("rename", "replace")

            def killing(call):
                def called(*arguments):
                    left[0] -= 1
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return call(*arguments)

                return called

            for name in names:
                setattr(Path, name, killing(getattr(Path, name)))

        code = apart(ended, kill_at)
        assert code in (-signal.SIGKILL, ExitCode.DONE)
        assert ended.run(attempt=2) == ExitCode.DONE
        found = digests(ended.report_dir) | digests(ended.model_dir) | {"run.json": "", "SHA256SUMS": ""}
        expected = expected or found
        assert found == expected
        assert not list(ended.report_dir.glob(".*"))
    assert code == ExitCode.DONE, "the last moment is after the last rename"


def test_a_winner_that_does_not_pass_the_gate_is_not_published_and_no_model_is_removed(ended):
    made = ended.changed(
        gate={"metric": "eval_loss", "max": 1e-9}, search={"discard": [str(ended.trials / "t001")]}
    )
    assert made.run() == ExitCode.GATE_NOT_PASSED
    assert made.report.message.startswith("spec.gate: eval_loss is ")
    assert not made.model_dir.exists()
    assert (ended.trials / "t001").exists()


def test_a_gate_against_the_baseline_needs_a_trial_that_measured_it(ended):
    made = ended.changed(gate={"metric": "eval_loss", "betterThanBaselineBy": 0.0})
    assert made.run() == ExitCode.GATE_NOT_PASSED
    assert "eval_loss of the baseline is not defined" in made.report.message
