"""The operator's image as a folder of files, which chroot can enter."""

import json
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_cluster import folders
from finetune_cluster.buildah import Buildah
from finetune_cluster.imagespecs import chosen, tag


@contextmanager
def unpacked_operator() -> Iterator[Path]:
    """Build the operator's image from this tree and unpack its layers, for as long as the block lasts."""
    (spec,) = chosen(["operator"])
    name = f"{spec.name}:{tag(spec, folders.PROJECT)}"
    with tempfile.TemporaryDirectory(prefix="finetune-operator-") as folder:
        root, archive = Path(folder) / "root", Path(folder) / "image.tar"
        builder = Buildah(Path(folder) / "images.log")
        builder.build(spec, name)
        builder.save(name, archive)
        Path(folder).chmod(0o755)  # its user is not root
        with tarfile.open(archive) as image:
            for layer in json.load(_file(image, "manifest.json"))[0]["Layers"]:
                with tarfile.open(fileobj=_file(image, layer)) as files:
                    files.extractall(root, filter="fully_trusted")
        archive.unlink()
        yield root


def _file(archive: tarfile.TarFile, name: str) -> "tarfile.ExFileObject":
    found = archive.extractfile(name)
    assert isinstance(found, tarfile.ExFileObject), f"{archive.name} has no {name}"
    return found
