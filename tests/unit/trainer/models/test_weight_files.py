"""Which files of a folder are read, and that none is taken for weights that it does not hold."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_api.model import Initialize
from finetune_api.run import ModelInput
from finetune_trainer.errors import NotFoundError
from finetune_trainer.models.folder import check_folder
from finetune_trainer.models.weight_files import INDEX, WHOLE, weight_files
from unit.trainer.architectures import build

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 8\n"


@pytest.fixture
def folder(tmp_path):
    """A model in one file."""
    return build("llama", tmp_path)


@pytest.fixture
def shards(folder):
    """The same in two files with an index."""
    tensors = load_file(folder / WHOLE)
    (folder / WHOLE).unlink()
    places = {name: (ONE, TWO)[number % 2] for number, name in enumerate(tensors)}
    for file in (ONE, TWO):
        save_file({name: tensors[name] for name in tensors if places[name] == file}, folder / file)
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    return folder


def refused(folder):
    """What is said of the folder."""
    with pytest.raises(NotFoundError) as caught:
        check_folder(ModelInput(path=str(folder), uri="pvc://m/llama"))
    return str(caught.value)


def test_the_files_that_are_read_are_those_of_the_index(shards):
    (shards / "consolidated.safetensors").write_bytes(POINTER)
    assert [path.name for path in weight_files(shards, "m")] == [ONE, TWO]
    check_folder(ModelInput(path=str(shards)))


def test_one_file_is_read_before_an_index_which_is_said(shards, caplog):
    save_file({"a": torch.ones(1)}, shards / WHOLE)
    with caplog.at_level(logging.WARNING):
        check_folder(ModelInput(path=str(shards), uri="pvc://m/llama"))
    assert f"pvc://m/llama has {WHOLE}, which is read, and {INDEX}, which is not" in caplog.text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            POINTER,
            "model.safetensors is a Git LFS pointer and not the file itself; fetch it with git lfs pull",
        ),
        (b"", "model.safetensors is no safetensors file, or is truncated or damaged"),
        (b"<html>login</html>" * 9, "header too large); copy it again"),
        (b"\x02" + bytes(7) + b"[]", "invalid JSON in header"),
        (b"\x02" + bytes(7) + b"{}more", "file not fully covered"),
    ],
)
def test_a_file_that_holds_no_weights_is_named_with_the_remedy(folder, content, reason):
    (folder / WHOLE).write_bytes(content)
    assert reason in refused(folder)


def test_a_truncated_file_is_found_before_it_is_read(shards):
    whole = (shards / TWO).read_bytes()
    (shards / TWO).write_bytes(whole[:-100])
    assert f"{TWO} is no safetensors file, or is truncated or damaged" in refused(shards)


def test_a_header_that_contradicts_itself_is_found_before_a_weight_is_read(shards):
    whole = (shards / TWO).read_bytes()
    (shards / TWO).write_bytes(whole.replace(b'"F32"', b'"F64"', 1))
    assert f"{TWO} is no safetensors file, or is truncated or damaged" in refused(shards)


def test_files_that_the_index_names_must_be_there(shards):
    (shards / TWO).unlink()
    assert (
        f"pvc://m/llama lacks {TWO}, one of the 2 files that {INDEX} names; copy the whole folder again"
        in refused(shards)
    )


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"weight_map": 1}'])
def test_an_index_without_files_is_refused(shards, content):
    (shards / INDEX).write_text(content)
    assert f"{INDEX} has no weight_map" in refused(shards)


@pytest.mark.parametrize(
    "file", ["../other/model.safetensors", "/model.safetensors", "a/b.safetensors", "model.bin"]
)
def test_only_safetensors_beside_the_index_are_read(shards, file):
    index = json.loads((shards / INDEX).read_text())
    index["weight_map"]["lm_head.weight"] = file
    (shards / INDEX).write_text(json.dumps(index))
    assert f"{INDEX} names {file}; only files of safetensors beside it are read" in refused(shards)


def test_files_without_an_index_are_refused(shards):
    (shards / INDEX).unlink()
    assert f"has {ONE}, {TWO}, but neither {WHOLE} nor {INDEX}" in refused(shards)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8])
def test_quantized_weights_without_their_scales_are_refused(folder, dtype):
    tensors = load_file(folder / WHOLE)
    save_file({name: (100 * each).to(dtype) for name, each in tensors.items()}, folder / WHOLE)
    assert "a quantized format, and config.json says nothing of its scales" in refused(folder)


def test_masks_and_positions_are_no_quantized_weights(folder):
    tensors = load_file(folder / WHOLE) | {
        "h.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8),
        "embeddings.position_ids": torch.arange(4)[None],
    }
    save_file(tensors, folder / WHOLE)
    check_folder(ModelInput(path=str(folder)))


def test_a_model_with_random_weights_needs_none(folder):
    (folder / WHOLE).write_bytes(POINTER)
    check_folder(ModelInput(path=str(folder), initialize=Initialize.RANDOM))
