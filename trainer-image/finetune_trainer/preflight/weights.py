"""Whether the files with the weights are whole, as far as their headers tell."""

from safetensors import SafetensorError, safe_open

from finetune_api.run import FaultPlace
from finetune_trainer.errors import NotFoundError, input_errors
from finetune_trainer.models.folder import ModelFolder, first_line, json_object

INDEX = "model.safetensors.index.json"


def check_weights(folder: ModelFolder) -> None:
    """Raise NotFoundError for a file that is truncated, or that the index names and is not there."""
    place = FaultPlace(field="model.uri", file=folder.name)
    if (folder.path / INDEX).exists():
        listed = json_object(folder.path / INDEX, f"{folder.name}/{INDEX}").get("weight_map")
        files = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
        missing = [name for name in files if not (folder.path / name).is_file()]
        if missing:
            raise NotFoundError(
                f"model: {folder.name} lacks {missing[0]}, one of the {len(files)} files that {INDEX} names; copy it"
                " again",
                place,
            )
    for path in sorted(folder.path.glob("*.safetensors")):
        name = f"{folder.name}/{path.name}"
        with input_errors(name, "model"):
            try:
                with safe_open(path, framework="np"):
                    pass
            except SafetensorError as error:
                raise NotFoundError(
                    f"model: {name} is truncated or damaged ({first_line(error)}); copy it again", place
                ) from error
