"""Which images a job may use. Pure."""

from fnmatch import fnmatchcase

from finetune_core.settings import OperatorSettings


def image_allowed(image: str, settings: OperatorSettings) -> bool:
    """Whether the administrator allows this image, by a shell pattern of which no part matches a slash."""
    return image in (settings.trainer_image, settings.script_image) or any(
        _matches(image, pattern) for pattern in settings.allowed_images
    )


def _matches(image: str, pattern: str) -> bool:
    parts, patterns = image.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))
