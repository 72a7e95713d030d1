"""Downloads a run's hf:// inputs: models, tokenizers and data files, each at one commit."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from finetune_api.combine import CombineConfig
from finetune_api.model import Initialize
from finetune_api.run import DataInput, ModelInput, RunConfig
from finetune_api.status import ResolvedData, ResolvedModel, ResolvedStatus
from finetune_api.uris import is_hub
from finetune_trainer.hub.client import Hub, Source
from finetune_trainer.process.stop import Stop
from finetune_trainer.reporting.recorder import Recorder

PARTS = ("train", "validation", "test")


def uses_hub(config: RunConfig | CombineConfig) -> bool:
    """Whether the run has an hf:// input."""
    data = [getattr(config.dataset, part, None) for part in PARTS]
    uris = [one.uri for one in data if one]
    trained = config if isinstance(config, RunConfig) else config.student
    if trained is not None:
        uris += [trained.model.uri, trained.model.tokenizer_uri]
    return any(map(is_hub, uris))


def fetch(config: RunConfig, recorder: Recorder, stop: Stop) -> RunConfig:
    """Download all hf:// inputs; returns the configuration with local paths and commits.

    Raises NotFoundError for a missing file or denied access, StorageError for temporary errors.
    """
    if not uses_hub(config):
        return config
    hub = Hub(config.output.hub_dir, stop)
    model = _with_tokenizer(_with_model(config.model, hub), hub)
    data = {part: _with_file(f"dataset.{part}.uri", getattr(config.dataset, part), hub) for part in PARTS}
    recorder.update(resolved=_resolved(model, data))
    return config.model_copy(
        update={"model": model, "dataset": config.dataset.model_copy(update=dict(data))},
    )


def fetch_rows(config: CombineConfig, stop: Stop) -> CombineConfig:
    """`fetch` for a combination, whose members are folders."""
    if not uses_hub(config):
        return config
    hub, given = Hub(config.output.hub_dir, stop), config.dataset
    data = {part: _with_file(f"dataset.{part}.uri", getattr(given, part), hub) for part in PARTS}
    return config.model_copy(update={"dataset": given.model_copy(update=dict(data))})


@contextmanager
def at_one_commit(run_json: Path, config: RunConfig, recorder: Recorder, stop: Stop) -> Iterator[Path]:
    """The effective run.json for several processes; they read the files downloaded here from the cache."""
    with TemporaryDirectory(prefix="finetune-") as folder:
        pinned = Path(folder) / run_json.name
        pinned.write_text(json.dumps(fetch(config, recorder, stop).to_json()))
        yield pinned


def _with_model(model: ModelInput, hub: Hub) -> ModelInput:
    if model.uri is None or not is_hub(model.uri):
        return model
    pretrained = model.initialize is Initialize.PRETRAINED
    found = hub.folder(Source.of("model.uri", model.uri, model.revision), weights=pretrained)
    return model.model_copy(update={"path": str(found.path), "revision": found.commit})


def _with_tokenizer(model: ModelInput, hub: Hub) -> ModelInput:
    uri = model.tokenizer_uri
    if uri is None or not is_hub(uri):
        return model
    found = hub.folder(Source.of("model.tokenizer.uri", uri, model.tokenizer_revision), weights=False)
    return model.model_copy(update={"tokenizer_path": str(found.path), "tokenizer_revision": found.commit})


def _with_file(field: str, data: DataInput | None, hub: Hub) -> DataInput | None:
    if data is None or data.uri is None or not is_hub(data.uri):
        return data
    found = hub.file(Source.of(field, data.uri, data.revision))
    return data.model_copy(update={"path": str(found.path), "revision": found.commit})


def _resolved(model: ModelInput, data: dict[str, DataInput | None]) -> ResolvedStatus:
    """Commits, known before anything is read: enough for a retry if this attempt ends here."""
    other = ResolvedModel(uri=model.tokenizer_uri, revision=model.tokenizer_revision)
    return ResolvedStatus(
        model=ResolvedModel(uri=model.uri, revision=model.revision),
        tokenizer=other if model.tokenizer_uri else None,
        **{part: ResolvedData(uri=one.uri, revision=one.revision) for part, one in data.items() if one},
    )
