"""Bills of materials: what each of our images consists of, in CycloneDX's JSON, written by syft."""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from finetune_cluster import folders
from finetune_cluster.binaries import binary
from finetune_cluster.buildah import BASE_IMAGE, Buildah
from finetune_cluster.commands import run
from finetune_cluster.errors import ClusterError
from finetune_cluster.images import Builder, DockerBuilder
from finetune_cluster.imagespecs import ImageSpec, tag
from finetune_cluster.kind import docker
from finetune_cluster.progress import say, step


def write_bills(specs: Sequence[ImageSpec], folder: Path) -> list[Path]:
    """Build the images and write FOLDER/NAME.cdx.json for each."""
    folder.mkdir(parents=True, exist_ok=True)
    builder, syft = _builder(), binary("syft")
    return [_bill(spec, builder, syft, folder / f"{spec.name}.cdx.json") for spec in specs]


def _bill(spec: ImageSpec, builder: Builder, syft: Path, bill: Path) -> Path:
    name = f"{spec.name}:{tag(spec, folders.PROJECT)}"
    builder.build(spec, name)
    # of several GB, for which /tmp may be too small
    with tempfile.TemporaryDirectory(dir=folders.cache()) as temporary:
        archive = Path(temporary) / "image.tar"
        builder.save(name, archive)
        with step(f"Listing what {name} consists of"):
            source = [f"docker-archive:{archive}", f"--source-name={spec.name}"]
            run(
                [syft, "scan", *source, f"--output=cyclonedx-json={bill}", "--quiet"],
                env={"TMPDIR": temporary, "SYFT_CHECK_FOR_APP_UPDATE": "false"},
            )
    say(f"{bill.name}: {_summary(bill)}")
    return bill


def _summary(bill: Path) -> str:
    """Number of packages of each kind; a bill without Python or system packages is no bill of ours."""
    components = json.loads(bill.read_text()).get("components", [])
    kinds = Counter(
        purl.partition(":")[2].partition("/")[0] for one in components if (purl := one.get("purl"))
    )
    if missing := {"pypi", "deb"} - set(kinds):
        raise ClusterError(f"{bill} lists no package of the kind {', '.join(sorted(missing))}")
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def _builder() -> Builder:
    """Docker if it has the base of our images, else buildah, as root."""
    if not docker.image_problem(BASE_IMAGE):
        return DockerBuilder()
    if os.geteuid() != 0:
        raise ClusterError("start Docker, or run this as root: the images are then built with buildah")
    return Buildah(folders.cache() / "sbom.log")
