"""Container images of a single layer, as archives that Docker and containerd import; no builder is needed."""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Image:
    """What an image is called, holds and starts."""

    name: str
    layer: bytes
    entrypoint: Sequence[str] = ()
    user: str = ""
    environment: Sequence[str] = ()


def write_archive(image: Image, archive: Path) -> None:
    """Write a docker-archive."""
    diff = f"sha256:{hashlib.sha256(image.layer).hexdigest()}"
    runs = {"Entrypoint": list(image.entrypoint), "User": image.user, "Env": [_PATH, *image.environment]}
    config = json.dumps(
        {
            "architecture": architecture(),
            "os": "linux",
            "config": runs,
            "rootfs": {"type": "layers", "diff_ids": [diff]},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [image.name], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(archive, mode="w") as tar:
        for entry, data in {"manifest.json": manifest, name: config, "layer.tar": image.layer}.items():
            _add(tar, entry, data, 0o644)


def layer(
    files: Mapping[str, Path | bytes],
    links: Mapping[str, str] | None = None,
    *,
    root: Path = Path("/"),
    paths: Iterable[str] = (),
) -> bytes:
    """A layer of files (path in the image → file), symbolic links (path → target), and paths below a root."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(set(paths)):
            file = root / path
            if file.is_symlink() or file.is_file():
                tar.add(file, arcname=path, recursive=False)
        for name, source in files.items():
            _add(tar, name, source if isinstance(source, bytes) else source.read_bytes(), 0o755)
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return buffer.getvalue()


def architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))
