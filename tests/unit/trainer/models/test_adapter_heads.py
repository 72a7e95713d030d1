"""Adapters on heads of every shape: what the checkpoint lacks is trained as a whole and recorded with the adapter."""

import pytest

from finetune_api.run import ModelInput
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.models.adapters import save_weights
from finetune_trainer.models.folder import ModelFolder
from finetune_trainer.models.load import load_model
from finetune_trainer.objectives.causal_lm import CausalLM
from finetune_trainer.objectives.classification import Classification
from finetune_trainer.objectives.token_classification import TokenClassification

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # by peft
SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
BART = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
BART |= {
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "max_position_embeddings": 32,
}
ARCHITECTURES = {
    "Bert": SIZES,
    "Roberta": SIZES,
    "DebertaV2": SIZES,
    "Bart": BART,
    "T5": {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0},
    "DistilBert": {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8},
    "XLNet": {"d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 8, "summary_type": "first"},
    "ModernBert": {**SIZES, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
}
HEADS = {
    "Bert": {"bert.pooler", "classifier"},
    "Roberta": {"classifier"},
    "DebertaV2": {"pooler", "classifier"},
    "Bart": {"classification_head"},
    "T5": {"classification_head"},
    "DistilBert": {"pre_classifier", "classifier"},
    "XLNet": {"sequence_summary", "logits_proj"},
    "ModernBert": {"head", "classifier"},
}
TASK = Classification(["a", "b", "c"])


def config_of(name, **changes):
    import transformers

    return getattr(transformers, f"{name}Config")(
        vocab_size=32, pad_token_id=0, **ARCHITECTURES.get(name, SIZES), **changes
    )


def bare(name, folder, **changes):
    """A checkpoint without a head, as those that were pretrained on tokens alone; BERT's without a pooler."""
    import torch
    import transformers

    torch.manual_seed(3)
    kind, lacks = (
        getattr(transformers, f"{name}Model"),
        {"add_pooling_layer": False} if name == "Bert" else {},
    )
    kind(config_of(name, **changes), **lacks).save_pretrained(folder)
    return folder


def adapted(base, task, **changes):
    """Loaded by the trainer, and what is trained moved, as a few steps would."""
    import torch

    spec = ModelInput.model_validate({"path": str(base), "adapter": {"lora": {}}} | changes)
    model = load_model(ModelFolder(base, base, "base", None, ""), spec, task, 0).model.eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn_like(parameter)
    return model, spec


def reloaded(base, folder, task):
    """As the card says."""
    import transformers
    from peft import PeftModel

    config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, task.auto_class).from_pretrained(base, config=config)
    return PeftModel.from_pretrained(model, folder).eval()


def logits(model):
    import torch

    ids = torch.randint(3, 32, (4, 7), generator=torch.Generator().manual_seed(1))
    ids[:, -1] = 2 if model.config.eos_token_id is None else model.config.eos_token_id
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def wholly_trained(model):
    """Modules that are trained as they are, by their names in the model of transformers."""
    from peft.utils import ModulesToSaveWrapper

    named = model.get_base_model().named_modules()
    return {name for name, module in named if isinstance(module, ModulesToSaveWrapper)}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_adapter_on_a_checkpoint_without_a_head_gives_the_same_logits_to_whoever_loads_it(tmp_path, name):
    base = bare(name, tmp_path / "base")
    model, spec = adapted(base, TASK)
    assert wholly_trained(model) == HEADS[name]
    save_weights(model, spec, tmp_path / "adapter")
    found = logits(model)
    assert found.std() > 1e-3
    assert (logits(reloaded(base, tmp_path / "adapter", TASK)) - found).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("name", "task", "head"),
    [
        ("ModernBert", TokenClassification(["a", "b"]), {"head", "classifier"}),
        ("Llama", CausalLM(), {"lm_head"}),
    ],
    ids=["words", "next tokens"],
)
def test_so_it_does_with_outputs_for_every_token(tmp_path, name, task, head):
    base = bare(name, tmp_path / "base")
    model, spec = adapted(base, task)
    assert wholly_trained(model) == head
    save_weights(model, spec, tmp_path / "adapter")
    assert (logits(reloaded(base, tmp_path / "adapter", task)) - logits(model)).abs().max() < 1e-6


def test_a_vocabulary_head_of_the_checkpoint_stays_as_it_is(tmp_path):
    import transformers

    transformers.LlamaForCausalLM(config_of("Llama")).save_pretrained(tmp_path)
    assert wholly_trained(adapted(tmp_path, CausalLM())[0]) == set()


@pytest.mark.parametrize(
    ("name", "head"),
    [(name, HEADS[name]) for name in ("DistilBert", "Bart", "DebertaV2")],
)
@pytest.mark.parametrize("random", [False, True], ids=["pretrained", "random weights"])
def test_a_head_that_the_checkpoint_has_is_trained_as_a_whole_too(tmp_path, name, head, random):
    """peft alone calls DistilBERT's pre_classifier a classifier, which it cannot adapt and train as a whole at once."""
    import transformers

    config = config_of(name, num_labels=3)
    base = tmp_path / "base"
    getattr(transformers, f"{name}ForSequenceClassification")(config).save_pretrained(base)
    changes = {"initialize": "Random", "adapter": {"lora": {"merge": True}}} if random else {}
    model, spec = adapted(base, TASK, **changes)
    assert wholly_trained(model) == head
    found = logits(model)
    save_weights(model, spec, tmp_path / "saved")
    if random:
        again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    else:
        again = reloaded(base, tmp_path / "saved", TASK)
    assert found.std() > 1e-3
    assert (logits(again) - found).abs().max() < 1e-5


def test_named_target_modules_never_lie_in_the_head(tmp_path):
    """BART's head has a linear layer out_proj, as its attention has."""
    base = bare("Bart", tmp_path / "base")
    adapter = {"lora": {"targetModules": ["out_proj"]}}
    model = adapted(base, TASK, adapter=adapter)[0]
    assert wholly_trained(model) == {"classification_head"}
    matrices = [name for name, _ in model.named_parameters() if ".lora_A" in name]
    assert matrices
    assert all("attn.out_proj" in name for name in matrices)


def test_a_model_that_has_nothing_to_adapt_is_refused(tmp_path):
    """I-BERT computes with layers of its own kind."""
    base = bare("IBert", tmp_path / "base")
    with pytest.raises(ConfigurationError, match="peft cannot adapt IBertForSequenceClassification"):
        adapted(base, TASK)
