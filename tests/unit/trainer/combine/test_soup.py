"""Model soups: of adapters, with batch normalisation, and greedy ones."""

import errno
import json
import os
import shutil
import signal

import pytest

from finetune_api.run import ExitCode
from finetune_api.status import Published
from unit.trainer.combine.members import SPLIT, noisy
from unit.trainer.tiny import merged, reviews

IF_BETTER = {"publish": "IfBetter", "bestMetric": "loss"}
TWO_NORMS = {"model": {"head": {"hiddenSizes": [8, 6], "batchNorm": True}}}


@pytest.fixture
def rates(train):
    """Two classifiers of one seed at different learning rates, so that their mean is useful."""
    return [
        train(f"rate-{rate}", 1, dataset={"split": SPLIT}, training={"optimizer": {"learningRate": rate}})
        for rate in (0.005, 0.004)
    ]


def weights(folder, name="model.safetensors"):
    from safetensors.torch import load_file

    return load_file(folder / name)


def test_adapters_are_averaged_as_the_products_of_their_factors(combine, train, model_folder):
    """Delta W = BA of the soup is the mean of the members' products, not the product of the mean factors."""
    import torch

    def adapter(seed, merge):
        lora = {"model": {"adapter": {"lora": {"merge": merge}}}, "training": {"epochs": 4}}
        return train(f"lora-{seed}-{merge}", seed, **lora)

    code, report, folder = combine([adapter(seed, True) for seed in (1, 2)], "AverageWeights")
    assert code == ExitCode.DONE, report.message
    base, soup = weights(model_folder), weights(folder)
    factors = [weights(adapter(seed, False), "adapter_model.safetensors") for seed in (1, 2)]
    config = json.loads((adapter(1, False) / "adapter_config.json").read_text())
    scale, checked = config["lora_alpha"] / config["r"], 0
    for name in factors[0]:
        if not name.endswith("lora_A.weight"):
            continue
        place = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight") + ".weight"
        pairs = [(each[name.replace("lora_A", "lora_B")].double(), each[name].double()) for each in factors]
        mean = scale * sum(b @ a for b, a in pairs) / 2
        apart = scale * (sum(b for b, _ in pairs) / 2) @ (sum(a for _, a in pairs) / 2)
        change = soup[place].double() - base[place.removeprefix("bert.")].double()
        rounding = torch.finfo(torch.float32).eps * soup[place].abs().max().item()
        assert (change - mean).abs().max().item() <= 2 * rounding, place
        assert (apart - mean).abs().max().item() > 1000 * rounding, place
        checked += 1
    assert checked >= 4


def pooled(model, tokenizer, rows):
    """What the head of a model gets (rows, features), each text alone, so without padding."""
    import torch

    from finetune_trainer.shipped.custom_head import pool

    found = []
    for row in rows:
        inputs = tokenizer(row["text"], truncation=True, max_length=32, return_tensors="pt")
        hidden = model.encoder(**inputs).last_hidden_state
        found.append(pool(hidden, inputs["attention_mask"], model.description["pooling"]))
    return torch.cat(found)


def headed_members(train):
    return [
        train(
            f"norms-{rate}",
            1,
            **merged(
                TWO_NORMS, {"dataset": {"split": SPLIT}, "training": {"optimizer": {"learningRate": rate}}}
            ),
        )
        for rate in (0.005, 0.002)
    ]


@pytest.mark.parametrize("rule", ["AverageWeights", "GreedySoup"])
def test_statistics_of_batch_normalisation_are_those_of_a_direct_pass_in_float64(
    combine, train, held_out, rule
):
    """Over the training rows without those held out, for both layers, the second behind the new first one."""
    import torch
    from torch import nn

    from finetune_trainer.shipped.custom_head import load

    members = headed_members(train)
    # the same member twice: every soup keeps it, and its statistics are estimated all the same
    chosen = members if rule == "AverageWeights" else [members[0]] * 2
    code, report, folder = combine(chosen, rule, dataset=held_out, bestMetric="loss")
    assert code == ExitCode.DONE, report.message
    assert report.model.combination.used == 2
    model, tokenizer = load(str(folder))
    rows = training_rows(held_out)
    assert len(rows) == report.resolved.train.rows == 48
    with torch.inference_mode():
        values, norms = pooled(model, tokenizer, rows).double(), 0
        for layer in model.head.double():
            if isinstance(layer, nn.BatchNorm1d):
                assert layer.running_mean.numpy() == pytest.approx(values.mean(0).numpy(), rel=1e-4, abs=1e-5)
                assert layer.running_var.numpy() == pytest.approx(values.var(0).numpy(), rel=1e-4)
                values = nn.functional.batch_norm(
                    values, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps
                )
                norms += 1
            else:
                values = layer(values)
    assert norms == 2


def training_rows(held_out):
    """The rows that the split leaves for training, as the trainer itself reads them."""
    from finetune_api.combine import CombineData
    from finetune_api.dataset import Deduplicate
    from finetune_api.objective import ObjectiveSpec
    from finetune_trainer.data.dataset import hold_out, read_options
    from finetune_trainer.data.deduplicate import Deduplicator
    from finetune_trainer.data.sources import scan

    data = CombineData.model_validate(held_out)
    objective = ObjectiveSpec.model_validate({"classification": {}})
    options = read_options(data, objective, ["neg", "pos"], data.split)
    rows = scan("dataset.train", data.train, options, Deduplicator(Deduplicate.NONE))
    train, _ = hold_out(rows, data.split, data.split.seed, objective)
    return [{"text": row.text} for row in train.source.rows]


def loss(model, tokenizer, rows):
    import torch

    with torch.inference_mode():
        logits = model.head(pooled(model, tokenizer, rows))
        targets = torch.tensor([int(row["label"] == "pos") for row in rows])
        return torch.nn.functional.cross_entropy(logits, targets).item()


def test_new_statistics_are_better_than_the_mean_of_the_members(combine, train, held_out):
    from finetune_trainer.shipped.custom_head import load

    members = headed_members(train)
    code, report, folder = combine(members, "AverageWeights", dataset=held_out, bestMetric="loss")
    assert code == ExitCode.DONE, report.message
    soup, tokenizer = load(str(folder))
    rows = reviews(300, start=4000)
    renewed = loss(soup, tokenizer, rows)
    states = [load(str(member))[0].state_dict() for member in members]
    soup.load_state_dict(
        {
            name: (states[0][name] + states[1][name]) / 2 if "running_" in name else tensor
            for name, tensor in soup.state_dict().items()
        }
    )
    averaged = loss(soup, tokenizer, rows)
    print(f"loss with new statistics {renewed:.4f}, with the members' mean {averaged:.4f}")
    assert renewed < averaged


def test_a_soup_with_batch_normalisation_needs_training_rows(combine, train, tmp_path):
    code, report, folder = combine(headed_members(train), "AverageWeights")
    assert (code, report.place.field) == (ExitCode.CONFIGURATION, "dataset.train")
    assert "members.0: pvc://models/0 has batch normalisation" in report.message
    assert "give dataset.train" in report.message
    assert not folder.exists()
    code, report, _ = combine(headed_members(train), "Vote", name="votes")
    assert code == ExitCode.DONE, report.message


def test_a_greedy_soup_keeps_members_from_the_best_on_and_skips_what_makes_it_worse(
    combine, rates, held_out, tmp_path, caplog
):
    """Two members with errors of opposite sign, and one that is broken: the best comes first, wherever it is listed."""
    broken = noisy(rates[0], tmp_path, 2, 3.0)
    members = [broken, *(noisy(rates[0], tmp_path, 1, scale, "classifier.bias") for scale in (3.0, -3.0))]
    code, report, folder = combine(members, "GreedySoup", dataset=held_out, **IF_BETTER)
    assert code == ExitCode.DONE, report.message
    manifest = json.loads((folder / "ensemble.json").read_text())
    losses = [member["metrics"]["eval_loss"] for member in manifest["members"]]
    best, second = sorted((1, 2), key=losses.__getitem__)
    found = report.model.combination
    steps = [line for line in caplog.messages if line.startswith("members.")]
    assert steps[0] == f"members.{best} is the best: eval_loss {losses[best]:.4f}"
    assert steps[1] == (
        f"members.{second} is kept: eval_loss {found.combined:.4f} with it, {losses[best]:.4f} without"
    )
    assert steps[2].startswith("members.0 is skipped: eval_loss ")
    assert [member["used"] for member in manifest["members"]] == [False, True, True]
    assert (found.members, found.used, found.published) == (3, 2, Published.COMBINATION)
    assert found.combined < found.best_member == losses[best]
    soup, parts = weights(folder), [weights(member) for member in members[1:]]
    for name, tensor in soup.items():
        assert (tensor == ((parts[0][name].double() + parts[1][name].double()) / 2).float()).all(), name
    assert "(not in the soup)" in (folder / "README.md").read_text()


def test_members_that_do_not_make_the_soup_worse_are_kept(combine, rates, held_out):
    """Algorithm 1 keeps what is equal."""
    code, report, _ = combine([rates[0]] * 3, "GreedySoup", dataset=held_out, **IF_BETTER)
    assert code == ExitCode.DONE, report.message
    found = report.model.combination
    assert (found.used, found.published) == (3, Published.BEST_MEMBER)


def test_a_soup_of_the_best_member_alone_is_said(combine, rates, held_out, tmp_path):
    members = [noisy(rates[0], tmp_path, 1, 3.0), rates[0]]
    code, report, folder = combine(members, "GreedySoup", dataset=held_out, **IF_BETTER)
    assert code == ExitCode.DONE, report.message
    assert (report.model.combination.used, report.model.combination.gain) == (1, 0)
    assert "GreedySoup of 1 of 2 members" in report.message
    assert "only the best member stayed in the soup" in report.message
    assert report.model.combination.published is Published.BEST_MEMBER
    code, report, folder = combine(members, "GreedySoup", name="always", dataset=held_out, bestMetric="loss")
    assert report.model.combination.published is Published.COMBINATION
    best = weights(rates[0])
    assert all((tensor == best[name]).all() for name, tensor in weights(folder).items())


def test_a_stop_while_a_soup_is_chosen_leaves_nothing_behind(combine, rates, held_out, monkeypatch):
    from finetune_trainer.combine.weights import WeightSum

    real = WeightSum.put_mean_with

    def put_mean_with(total, model):
        os.kill(os.getpid(), signal.SIGTERM)
        real(total, model)

    monkeypatch.setattr(WeightSum, "put_mean_with", put_mean_with)
    code, report, folder = combine(rates, "GreedySoup", dataset=held_out, bestMetric="loss")
    assert (code, report.message) == (ExitCode.INTERRUPTED, "stopped by SIGTERM; nothing was published")
    assert not folder.exists()


def test_a_full_disk_while_the_best_member_is_copied_is_a_storage_error(
    combine, rates, held_out, monkeypatch
):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copytree", full)
    code, report, folder = combine([rates[0]] * 2, "AverageProbabilities", dataset=held_out, **IF_BETTER)
    assert code == ExitCode.STORAGE
    assert "No space left on device" in report.message
    assert not folder.exists()


@pytest.mark.parametrize("rule", ["AverageWeights", "GreedySoup"])
def test_a_soup_of_members_in_bfloat16_is_in_bfloat16_and_measured_so(combine, train, held_out, rule):
    """output.dtype of the members is that of the soup; its metrics are those of the rounded weights."""
    import torch

    small = {"dataset": {"split": SPLIT}, "output": {"dtype": "BFloat16"}}
    pair = [train(f"small-{seed}", seed, **small) for seed in (1, 2)]
    code, report, folder = combine(pair, rule, dataset=held_out)
    assert (code, report.model.dtype) == (ExitCode.DONE, "bfloat16"), report.message
    assert {tensor.dtype for tensor in weights(folder).values()} == {torch.bfloat16}
    again = combine([folder, folder], "AverageWeights", dataset=held_out, name="again")[1].model.metrics
    for name in ("eval_loss", "test_loss"):
        assert again[name] == report.model.metrics[name], "the published folder is what was measured"


def test_a_soup_of_members_in_two_number_formats_is_in_float32(combine, train, alike, held_out):
    small = train("small-1", 1, dataset={"split": SPLIT}, output={"dtype": "BFloat16"})
    code, report, _ = combine([alike[0], small], "AverageWeights", dataset=held_out)
    assert (code, report.model.dtype) == (ExitCode.DONE, "float32"), report.message
