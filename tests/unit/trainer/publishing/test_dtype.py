"""output.dtype: the number format of the published weights, whose values the last evaluation reads."""

import pytest

from finetune_api.run import ExitCode
from unit.trainer.architectures import build


def dtypes(path):
    """Of the tensors in a file."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as tensors:
        return {str(tensors.get_tensor(name).dtype) for name in tensors.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A base model in bfloat16."""
    import torch
    from transformers import AutoModel

    folder = build("bert", tmp_path_factory.mktemp("half"))
    AutoModel.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("asked", "base", "published"),
    [
        (None, "half", "bfloat16"),
        ("Float32", "half", "float32"),
        (None, "model_folder", "float32"),
        ("BFloat16", "model_folder", "bfloat16"),
    ],
)
def test_weights_are_published_as_asked_or_as_the_base_model_has_them(
    make_job, request, asked, base, published
):
    made = make_job(training={"epochs": 1}, output={"dtype": asked})
    made = made.changed({"model": {"path": str(request.getfixturevalue(base))}})
    assert made.run() == ExitCode.DONE
    assert dtypes(made.model_dir / "model.safetensors") == {f"torch.{published}"}
    assert made.report.model.dtype == published
    card = (made.model_dir / "README.md").read_text()
    assert f"weights in {published}" in card
    assert ("by rounding to bfloat16, eval_loss" in card) is (published == "bfloat16")


def test_rounding_is_measured_again_and_its_difference_reported(make_job, caplog):
    made = make_job(training={"epochs": 1}, output={"dtype": "BFloat16"})
    with caplog.at_level("INFO", logger="finetune_trainer"):
        assert made.run() == ExitCode.DONE
    trained, published = made.report.epochs[-1].eval_loss, made.report.model.metrics["eval_loss"]
    assert 0 < abs(trained - published) < 0.01
    assert f"by rounding to bfloat16, eval_loss {trained:.4f} became {published:.4f}" in caplog.text


def test_a_normalised_regression_is_rounded_in_original_units(make_job):
    import torch
    from transformers import AutoModelForSequenceClassification

    made = make_job(
        objective={"regression": {"normalize": True}},
        dataset={"columns": {"label": "rating"}},
        training={"epochs": 1},
        output={"dtype": "BFloat16"},
    )
    assert made.run() == ExitCode.DONE
    model = AutoModelForSequenceClassification.from_pretrained(made.model_dir, dtype=torch.float32)
    assert dtypes(made.model_dir / "model.safetensors") == {"torch.bfloat16"}
    assert model.classifier.bias.abs().max() < 4


def test_another_dtype_is_another_run(make_job):
    made = make_job(training={"epochs": 1})
    assert made.run() == ExitCode.DONE
    assert made.changed({"output": {"dtype": "BFloat16"}}).run() == ExitCode.NOT_FOUND


def test_a_cast_converts_parameters_and_buffers_and_leaves_whole_numbers():
    import torch

    from finetune_trainer.models.precision import cast

    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    weight = model[0].weight
    cast(model, torch.bfloat16)
    assert weight is model[0].weight
    assert {
        name: tensor.dtype for name, tensor in model.state_dict().items() if "num_batches" not in name
    } == dict.fromkeys(
        ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"), torch.bfloat16
    )
    assert model[1].num_batches_tracked.dtype is torch.int64
