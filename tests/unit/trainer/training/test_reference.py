"""The model before training, as preferences are compared with it: computed once, kept, and the same on every way."""

import json
import math

import numpy as np
import pytest

from finetune_api.run import ExitCode
from finetune_trainer.training.inputs import REFERENCE
from unit.trainer.architectures import build
from unit.trainer.tiny import BAD, GOOD, NEUTRAL, job
from unit.trainer.training.test_crash import die, digest, do_at

TRAINING = {
    "epochs": 2,
    "optimizer": {"learningRate": 1e-2},
    "checkpoint": {"every": {"steps": 2}},
    "evaluation": {"metrics": ["accuracy", "rewards_margin"]},
}
LORA = {"model": {"adapter": {"lora": {"merge": True}}}}
WRITTEN = "computing the reference's log-probabilities of"
READ = "log-probabilities of pvc://data/train.jsonl are there from an earlier run"


def answers(count):
    """Words that praise against words that blame; and, by turns, one of them with its label."""
    rows = []
    for number in range(count):
        good, bad = GOOD[number % 8], BAD[number % 7]
        rows.append(
            {
                "prompt": f"the {NEUTRAL[number % 11]} {number} is ",
                "chosen": f"{good} and {GOOD[number % 5]}",
                "rejected": f"{bad} and {BAD[number % 3]}",
                "completion": (good, bad)[number % 2],
                "label": number % 2 == 0,
            }
        )
    return rows


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return build("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture
def make_job(tmp_path, llama):
    def make(name, loss="DPO", **changes):
        return job(
            tmp_path / name,
            llama,
            answers(36),
            **{"objective": {"preference": {"loss": loss}}, "training": TRAINING, **changes},
        )

    return make


def steps(made):
    entries = [json.loads(line) for line in (made.model_dir / "metrics.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in entries if entry["event"] == "train"]


def files(made):
    return sorted((made.checkpoint_dir / REFERENCE).glob("*.npy"))


@pytest.mark.parametrize("changes", [{}, LORA], ids=["the whole model", "an adapter"])
def test_the_first_loss_is_ln_2_and_the_model_is_published_as_a_language_model(make_job, changes):
    from transformers import AutoModelForCausalLM

    made = make_job("job", **changes)
    assert made.run_apart() == ExitCode.DONE, made.report.message
    assert steps(made)[0] == pytest.approx(math.log(2), abs=1e-5)
    assert steps(made)[-1] < math.log(2)
    assert made.report.model.metrics["eval_accuracy"] > 0.5
    assert type(AutoModelForCausalLM.from_pretrained(made.model_dir)).__name__ == "LlamaForCausalLM"
    assert not made.checkpoint_dir.exists()


@pytest.mark.parametrize(("loss", "damage"), [("DPO", "none"), ("DPO", "a flipped byte"), ("KTO", "lost")])
def test_a_killed_run_goes_on_with_the_same_reference_to_the_same_bytes(make_job, loss, damage):
    whole, killed = make_job("whole", loss), make_job("killed", loss)
    assert whole.run_apart() == ExitCode.DONE, whole.report.message
    assert killed.run_apart(lambda: do_at("step", 5, die)) != ExitCode.DONE
    kept = files(killed)
    assert len(kept) == 2
    for path in kept:
        if damage == "lost":
            path.unlink()
        elif damage == "a flipped byte":
            data = bytearray(path.read_bytes())
            data[-3] ^= 1
            path.write_bytes(data)
    said = len(killed.log)
    assert killed.run_apart() == ExitCode.DONE
    second = killed.log[said:]
    assert (READ in second, WRITTEN in second) == (damage == "none", damage != "none")
    assert killed.report.from_step > 0
    assert digest(killed) == digest(whole)


def test_it_is_what_the_model_predicts_with_its_adapter_switched_off(make_job):
    """After two steps, from the weights that were saved then."""
    from finetune_trainer.config import read_config
    from finetune_trainer.distributed import Ranks
    from finetune_trainer.process.launch import Process
    from finetune_trainer.process.stop import Stop
    from finetune_trainer.reporting.recorder import Recorder
    from finetune_trainer.training.assembly import assemble, start_torch
    from finetune_trainer.training.inputs import read_inputs

    made = make_job("job", **LORA)
    assert made.run_apart(lambda: do_at("step", 4, die)) != ExitCode.DONE
    inputs = read_inputs(read_config(made.write()), Recorder(), Stop(), Process(0, 1))
    run = assemble(inputs, start_torch(inputs, 1), Ranks()).run
    assert run.checkpoints.restore().step > 0
    rows = np.arange(len(run.train))
    trained, _ = run.task.predict(run.train, rows)
    with run.task.model.disable_adapter():
        untrained, _ = run.task.predict(run.train, rows)
    reference = np.asarray(run.train.reference)
    assert untrained[:, :2].detach().numpy() == pytest.approx(reference, abs=1e-4)
    assert np.abs(trained[:, :2].detach().numpy() - reference).max() > 0.01


def test_trials_of_a_search_share_it_whatever_their_adapter_and_rate(make_job, tmp_path):
    shared = str(tmp_path / "shared")
    output = {"output": {"tokenDir": shared}}
    one = make_job("one", **output)
    assert one.run_apart() == ExitCode.DONE, one.report.message
    other = make_job("other", **output, **LORA).changed({"training": {"optimizer": {"learningRate": 1e-3}}})
    assert other.run_apart() == ExitCode.DONE, other.report.message
    assert WRITTEN in one.log
    assert WRITTEN not in other.log


def test_two_ranks_train_what_one_does(make_job):
    from safetensors.numpy import load_file

    one, two = (make_job(name) for name in ("one", "two"))
    assert one.run_apart() == ExitCode.DONE
    assert two.run_ranks(2) == [ExitCode.DONE, ExitCode.DONE], two.log
    left, right = (load_file(made.model_dir / "model.safetensors") for made in (one, two))
    assert max(np.abs(left[name] - right[name]).max() for name in left) < 1e-3
    assert steps(two) == pytest.approx(steps(one), abs=1e-4)


def test_losses_without_a_reference_compute_none(make_job):
    made = make_job("job", "SimPO")
    assert made.run_apart() == ExitCode.DONE, made.report.message
    assert WRITTEN not in made.log
