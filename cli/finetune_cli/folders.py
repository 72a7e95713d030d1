"""Reads options of the form NAME=DIR."""

from pathlib import Path

from finetune_api.run import ExitCode
from finetune_cli.errors import CommandError


def read_folders(options: list[str], option: str) -> dict[str, Path]:
    """Folders by the name of what they stand for. Raises CommandError."""
    found: dict[str, Path] = {}
    for text in options:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise CommandError(f"{option} {text}: write {option} NAME=DIR", ExitCode.CONFIGURATION)
        if not Path(folder).is_dir():
            raise CommandError(f"{option} {text}: {folder} is not a folder", ExitCode.NOT_FOUND)
        if name in found:
            raise CommandError(
                f"{option} {text}: {name} is also {found[name]}; give it once", ExitCode.CONFIGURATION
            )
        found[name] = Path(folder)
    return found
