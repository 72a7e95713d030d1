"""Finds the base model of an adapter from which a run starts: on a claim of the job, in a folder, on the Hub."""

from pathlib import Path, PurePosixPath

from finetune_api.run import RunConfig
from finetune_api.uris import HUB, parse, parse_hub
from finetune_trainer.hub.client import Hub, Source
from finetune_trainer.hub.fetch import uses_hub
from finetune_trainer.models.adapter_folder import AdapterFolder
from finetune_trainer.models.folder import no_whole_model
from finetune_trainer.process.stop import Stop

CLAIM = "pvc://"


def find_base(adapter: AdapterFolder, config: RunConfig, stop: Stop) -> Path:
    """The folder of the base model. Raises NotFoundError with the place where it was looked for."""
    if not adapter.base:
        raise no_whole_model(
            adapter.name, "its base model", ", and adapter_config.json does not name its base model"
        )
    if adapter.base.startswith(CLAIM):
        return _on_claim(adapter, config)
    if Path(adapter.base).is_dir():
        return Path(adapter.base)
    uri = f"{HUB}{adapter.base}{f'@{adapter.revision}' if adapter.revision else ''}"
    if Path(adapter.base).is_absolute() or not _is_repository(uri):
        raise no_whole_model(
            adapter.name, adapter.base, f", and its base model is not there: no folder {adapter.base}"
        )
    if not uses_hub(config):
        raise no_whole_model(
            adapter.name,
            adapter.base,
            f", and its base model is not there: no folder {adapter.base}, and {uri} on the Hugging Face Hub, which"
            f" only jobs with an hf:// URI contact (model.tokenizer.uri: {uri} makes this one)",
        )
    return Hub(config.output.hub_dir, stop).folder(Source.of("model.uri", uri, None), weights=True).path


def _on_claim(adapter: AdapterFolder, config: RunConfig) -> Path:
    place, roots = parse(adapter.base), claim_roots(config)
    if place.name not in roots:
        mounted = ", ".join(sorted(roots)) or "none"
        raise no_whole_model(
            adapter.name,
            adapter.base,
            f", and its base model is not there: no input or output of this job is on the claim {place.name} (they"
            f" are on {mounted})",
        )
    folder = roots[place.name] / place.path
    if ".." in place.path.parts or not folder.is_dir():
        raise no_whole_model(
            adapter.name, adapter.base, f", and its base model is not there: no folder {folder}"
        )
    return folder


def claim_roots(config: RunConfig) -> dict[str, Path]:
    """Where the claims of inputs and output are mounted, by their names: a path ends as its URI does."""
    model, data, output = config.model, config.dataset, config.output
    given = [(model.uri, model.path), (model.tokenizer_uri, model.tokenizer_path)]
    given += [(each.uri, each.path) for each in (data.train, data.validation, data.test) if each]
    given += [(output.uri, output.model_dir)]
    roots: dict[str, Path] = {}
    for uri, path in given:
        if uri and path and uri.startswith(CLAIM):
            place, parts = parse(uri), PurePosixPath(path).parts
            inner = place.path.parts
            if parts[-len(inner) :] == inner:
                roots.setdefault(place.name, Path(*parts[: -len(inner)]))
    return roots


def _is_repository(uri: str) -> bool:
    try:
        return parse_hub(uri).path is None
    except ValueError:
        return False
