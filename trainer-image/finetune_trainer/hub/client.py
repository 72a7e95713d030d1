"""Takes models and data files from the Hugging Face Hub, by huggingface_hub.

Downloads go over plain HTTPS into huggingface_hub's cache: a file appears there whole or not at all, and a retry
takes it from there. Only safetensors, JSON and the tokenizer's files of a model are asked for."""

import logging
import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from finetune_api.run import FaultPlace
from finetune_api.uris import HubLocation, parse_hub
from finetune_trainer.errors import ConfigurationError, NotFoundError, StorageError
from finetune_trainer.files import is_pattern, matches, sha256
from finetune_trainer.hub.errors import hub_faults, unavailable
from finetune_trainer.process.stop import Stop

logger = logging.getLogger(__name__)

TOKENIZER = ("*.json", "*.jinja", "*.model", "vocab.txt", "merges.txt", "*.tiktoken")
WEIGHTS = "*.safetensors"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
ELSEWHERE = ("*/*", "consolidated*")
"""Folders hold exports to other formats; consolidated.safetensors is a second copy of the same weights."""
MOST_LISTED = 10
RETRY_SECONDS = (2.0, 8.0)
TELL_SECONDS = 15.0
ABANDONED_SECONDS = 600.0
"""A part of a file that nobody has written to for so long was left by a process that was killed."""


@dataclass(frozen=True)
class Source:
    """Something on the Hub that a field of the job names."""

    field: str
    uri: str
    place: HubLocation
    revision: str | None
    """A commit, where an earlier attempt found one."""

    @classmethod
    def of(cls, field: str, uri: str, commit: str | None) -> "Source":
        """Parse the URI; raises ConfigurationError."""
        try:
            place = parse_hub(uri)
        except ValueError as error:
            raise ConfigurationError(f"{field}: {error}", FaultPlace(field=field, file=uri)) from error
        return cls(field, uri, place, commit or place.revision)


@dataclass(frozen=True)
class Fetched:
    """Where it lies now, and the commit it is of."""

    path: Path
    commit: str


class Hub:
    """The Hub, or the mirror that HF_ENDPOINT names, with a cache on the disk."""

    def __init__(self, cache: str | None, stop: Stop) -> None:
        from huggingface_hub import constants

        self.cache = cache or constants.HF_HUB_CACHE
        self.endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self._stop = stop
        for partial in Path(self.cache).glob("*/blobs/*.incomplete"):  # no later process goes on with these
            if time.time() - partial.stat().st_mtime > ABANDONED_SECONDS:
                partial.unlink(missing_ok=True)

    def folder(self, source: Source, *, weights: bool) -> Fetched:
        """A model repository's top-level files, with or without its weights."""
        from huggingface_hub import snapshot_download

        def download(**how: Any) -> str:
            wanted = [*TOKENIZER, *([WEIGHTS] if weights else [])]
            repository = source.place.repository
            found = snapshot_download(
                repository, allow_patterns=wanted, ignore_patterns=list(ELSEWHERE), **how
            )
            return str(found)

        path = Path(self._download(source, download))
        found = Fetched(path, path.name)
        if weights and not any(path.glob(WEIGHTS)):
            raise self._no_weights(source, found.commit)
        self._verify(source, path.iterdir())
        return found

    def file(self, source: Source) -> Fetched:
        """A file of a dataset repository, or all that a pattern in its last part matches: the path has it too."""
        from huggingface_hub import hf_hub_download

        name = PurePosixPath(str(source.place.path))
        files: list[Path] = []

        def download(**how: Any) -> str:
            names = [str(name)]
            if is_pattern(name.name):
                names, commit = self._matching(source, name, how["revision"])
                how |= {"revision": commit}
            found = (
                hf_hub_download(source.place.repository, each, repo_type="dataset", **how) for each in names
            )
            files[:] = map(Path, found)
            return str(files[0].with_name(name.name))

        path = Path(self._download(source, download))
        self._verify(source, files)
        return Fetched(path, path.parents[len(name.parts) - 1].name)

    def _matching(
        self, source: Source, pattern: PurePosixPath, revision: str | None
    ) -> tuple[list[str], str]:
        """The files that a pattern matches, and their commit. The cache cannot tell: it may hold some of them only."""
        from huggingface_hub import HfApi

        info = HfApi(self.endpoint).dataset_info(source.place.repository, revision=revision)
        names = [each.rfilename for each in info.siblings or []]
        there = [name for name in names if PurePosixPath(name).parent == pattern.parent]
        found = sorted(name for name in there if matches(PurePosixPath(name).name, pattern.name))
        if not found:
            listed = ", ".join((there or names)[:MOST_LISTED]) or "no files"
            raise NotFoundError(
                f"{source.field}: {source.uri} matches no file; the repository has {listed}",
                FaultPlace(field=source.field, file=source.uri),
            )
        return found, str(info.sha)

    def _download(self, source: Source, download: Callable[..., str]) -> str:
        """Download with a word on how far it is; tries again where another moment may help."""
        logger.info(f"fetching {source.uri} from {self.endpoint}")
        began = time.monotonic()
        for pause in (*RETRY_SECONDS, None):
            try:
                with hub_faults(source.field, source.uri, self.endpoint, self.cache):
                    path = download(
                        revision=source.revision,
                        cache_dir=self.cache,
                        endpoint=self.endpoint,
                        tqdm_class=self._bar(source),
                    )
                break
            except StorageError as error:
                if pause is None or error.place is None or error.place.field == "output":
                    raise  # a full disk is no emptier in some seconds
                logger.warning(f"{error.message}; trying again in {pause:.0f} s")
                time.sleep(pause)
        logger.info(f"{source.uri} is there after {time.monotonic() - began:.1f} s")
        return path

    def _bar(self, source: Source) -> type:
        """A progress bar that draws nothing, writes to the log, and ends a download when the run must stop."""
        from huggingface_hub.utils.tqdm import tqdm

        stop, logged_at = self._stop, [time.monotonic()]

        class Bar(tqdm):
            received = 0.0

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs | {"disable": True})  # type: ignore[no-untyped-call]

            def update(self, n: float | None = 1) -> None:
                if stop.requested:
                    raise stop.to_error(f" while {source.uri} was downloaded")
                self.received += n or 0
                if time.monotonic() > logged_at[0] + TELL_SECONDS and self.received > 1e6:
                    logged_at[0] = time.monotonic()
                    logger.info(f"fetching {source.uri}: {self.received / 1e6:.0f} MB so far")

        return Bar

    def _verify(self, source: Source, paths: Iterable[Path]) -> None:
        """Compare large files, which the cache names by their sha256, with their names; huggingface_hub does not."""
        for path in paths:
            blob = path.resolve()
            if re.fullmatch("[0-9a-f]{64}", blob.name) and sha256(blob) != blob.name:
                blob.unlink()
                path.unlink(missing_ok=True)
                raise StorageError(
                    f"{source.field}: {path.name} of {source.uri} came damaged from {self.endpoint} (its sha256 is not"
                    " the Hub's); it is removed, and another attempt downloads it again",
                    FaultPlace(field=source.field, file=source.uri),
                )

    def _no_weights(self, source: Source, commit: str) -> NotFoundError:
        from huggingface_hub import HfApi

        names: list[str] = []
        with suppress(*unavailable()):
            names = HfApi(self.endpoint).list_repo_files(source.place.repository, revision=commit)
        pickled = [name for name in names if name.endswith(PICKLED)]
        has = f"only {', '.join(pickled[:3])}, which can run code when loaded" if pickled else "none"
        return NotFoundError(
            f"{source.field}: {source.uri} has no *.safetensors weights ({has}); take a model that has them, or a"
            " revision such as @refs/pr/1 if somebody proposed them there",
            FaultPlace(field=source.field, file=source.uri),
        )
