"""--set on the command line: the same run as with the values in the file, in one process and in several."""

import json
import os
import subprocess
import sys

from finetune_api.run import ExitCode

QUICK = {"epochs": 1}


def run(job, *arguments):
    from finetune_trainer.__main__ import main

    return main([str(job.write()), *arguments])


def test_a_seed_and_a_rate_from_the_command_line_train_as_those_of_a_file(make_job):
    written = make_job("file", training=QUICK | {"seed": 2, "optimizer": {"learningRate": 1e-4}})
    given = make_job("set", training=QUICK)
    assert written.run() == ExitCode.DONE
    assert (
        run(given, "--set", "training.seed=2", "--set=training.optimizer.learningRate=1e-4") == ExitCode.DONE
    )
    of_file, of_set = ((job.model_dir / "model.safetensors").read_bytes() for job in (written, given))
    assert of_file == of_set
    recorded = json.loads((given.model_dir / "run.json").read_text())["config"]["training"]
    assert (recorded["seed"], recorded["optimizer"]["learningRate"]) == (2, 1e-4)


def test_a_mistaken_path_or_value_is_a_configuration_error_with_its_place(make_job):
    made = make_job(training=QUICK)
    assert run(made, "--set", "training.learningRate=1e-4") == ExitCode.CONFIGURATION
    assert made.report.place.field == "training.learningRate"
    assert "did you mean training.optimizer.learningRate?" in made.report.message
    assert run(made, "--set", "training.optimizer.learningRate=5") == ExitCode.CONFIGURATION
    assert made.report.place.field == "training.optimizer.learningRate"
    assert "less than or equal to 1" in made.report.message
    assert not made.model_dir.exists()


def test_what_only_the_trainer_checks_is_checked_after_the_change(make_job):
    made = make_job(training=QUICK)
    assert run(made, "--set", "training.evaluation.bestMetric=pearson") == ExitCode.CONFIGURATION
    assert made.report.place.field == "training.evaluation.bestMetric"


def test_an_argument_that_is_no_assignment_says_how_to_write_one(make_job):
    command = [sys.executable, "-m", "finetune_trainer", str(make_job().write()), "--set", "training.seed"]
    path = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=path, capture_output=True, text=True)
    assert done.returncode == ExitCode.CONFIGURATION
    assert "write PATH=VALUE" in done.stderr


def test_the_report_goes_where_the_command_line_says(make_job):
    made = make_job(training=QUICK)
    elsewhere = made.folder / "elsewhere"
    assert (
        run(made, "--set", f"terminationLog={elsewhere}", "--set", "training.x=1") == ExitCode.CONFIGURATION
    )
    assert "training.x" in elsewhere.read_text()


def test_all_processes_of_a_run_get_the_changes(make_job):
    made = make_job(training=QUICK, devices={"gpus": 2, "simulated": True})
    command = [sys.executable, "-m", "finetune_trainer", str(made.write()), "--set", "training.seed=5"]
    path = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([*command, "--set", "training.maxSteps=4", "--set=training.epochs=null"], env=path)
    assert done.returncode == ExitCode.DONE
    effective = made.report.effective
    assert (effective.training.seed, effective.total_steps, effective.processes) == (5, 4, 2)
