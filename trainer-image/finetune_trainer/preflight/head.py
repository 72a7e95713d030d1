"""Whether a run starts with a new head, as far as the files of its model say: its weights are not read."""

from typing import Any

from finetune_api.model import Initialize
from finetune_api.run import RunConfig
from finetune_trainer.models.base_head import base_head_of, choose_head
from finetune_trainer.models.folder import ModelFolder
from finetune_trainer.objectives import Objective
from finetune_trainer.training.forgetting import nothing_to_forget


def check_forgetting(run: RunConfig, folder: ModelFolder, model: Any, objective: Objective[Any]) -> None:
    """Raise ConfigurationError for a model that cannot do the task yet, and so has nothing to forget."""
    if not run.dataset.forgetting or objective.outputs is None:
        return
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(folder.path), local_files_only=True, trust_remote_code=False)
    base = base_head_of(folder.adapter or folder.path, config)
    head = choose_head(base, objective, type(model).__name__, run.model.head, lacking=False)
    if head.order is None or run.model.initialize is Initialize.RANDOM:
        raise nothing_to_forget()
