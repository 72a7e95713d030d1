"""Builds images without Docker: buildah in its own storage, on a base image made by debootstrap.

Every call runs in a separate mount namespace, because buildah leaves its storage mounted.
"""

import os
import shutil
import tempfile
from pathlib import Path

from finetune_cluster import debian, folders
from finetune_cluster.commands import run, run_logged
from finetune_cluster.imagespecs import ImageSpec
from finetune_cluster.progress import step

SUITE = "trixie"
BASE_IMAGE = f"docker.io/library/debian:{SUITE}-slim"
_CERTIFICATES = ("SSL_CERT_FILE", "PIP_CERT")
# What Debian's own slim images leave out, too.
_SLIMMED = (
    "usr/share/doc",
    "usr/share/doc-base",
    "usr/share/groff",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/linda",
    "usr/share/locale",
    "usr/share/man",
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/log",
)
_DPKG_EXCLUDES = "".join(
    f"path-exclude /{folder}/*\n" for folder in _SLIMMED if folder.startswith("usr/share")
)


class Buildah:
    """buildah with its storage in one folder of the cache and its log in a file."""

    def __init__(self, log: Path) -> None:
        self._storage = folders.cache() / "buildah"
        self._log = log

    def build(self, spec: ImageSpec, name: str) -> None:
        """Build one of our images."""
        image = f"localhost/{name}"
        debian.require(debian.IMAGES)
        self._ensure_base()
        arguments = ["--isolation=chroot", "--layers", "--pull=never", *_certificate_options()]
        dockerfile = folders.PROJECT / spec.dockerfile
        with step(f"Building the image {image} (log: {self._log})"):
            source = [f"--file={dockerfile}", f"--target={spec.target}", str(folders.PROJECT)]
            self._run("bud", *arguments, f"--tag={image}", *source)

    def push(self, name: str, registry: str) -> None:
        """Push without compression where this buildah can: the way is short, and gigabytes take minutes."""
        with step(f"Pushing {name}"):
            options = ["--tls-verify=false", "--disable-compression"]
            self._run("push", *options, f"localhost/{name}", f"docker://{registry}/{name}")

    def save(self, name: str, archive: Path) -> None:
        """Write an image to a file of the format of `docker save`."""
        with step(f"Saving {name}"):
            self._run("push", f"localhost/{name}", f"docker-archive:{archive}:{name}")

    def _ensure_base(self) -> None:
        if run(self._command("images", "--quiet", "--filter", f"reference={BASE_IMAGE}")).strip():
            return
        with tempfile.TemporaryDirectory(prefix="finetune-base-") as folder, step(f"Making {BASE_IMAGE}"):
            root = Path(folder) / "root"
            run_logged(["debootstrap", "--variant=minbase", SUITE, root], self._log)
            slim(root)
            archive = Path(folder) / "base.tar"
            run(["tar", "--create", "--numeric-owner", f"--file={archive}", f"--directory={root}", "."])
            (Path(folder) / "Dockerfile").write_text('FROM scratch\nADD base.tar /\nCMD ["bash"]\n')
            self._run("bud", "--tag", BASE_IMAGE, folder)

    def _run(self, command: str, *arguments: str) -> None:
        """One buildah command; it keeps gigabytes in TMPDIR while it builds, so that is on the cache's disk."""
        temporary = self._storage / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        run_logged(self._command(command, *arguments), self._log, env={"TMPDIR": str(temporary)})

    def _command(self, *arguments: str) -> list[str]:
        """--root and --runroot keep it apart from the machine's own images."""
        place = [f"--root={self._storage / 'root'}", f"--runroot={self._storage / 'run'}"]
        return ["unshare", "--mount", "nice", "buildah", *place, *arguments]


def slim(root: Path) -> None:
    """Take out of a Debian root what nobody reads in a container, and keep it out."""
    for folder in _SLIMMED:
        path = root / folder
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(_DPKG_EXCLUDES)
    (root / "var/cache/apt/archives/partial").mkdir(parents=True)
    (root / "etc/hostname").unlink(missing_ok=True)
    (root / "etc/resolv.conf").unlink(missing_ok=True)


def _certificate_options() -> list[str]:
    """Where this machine has its own certificate authority, the build gets it; it stays out of the image."""
    files = {name: Path(os.environ[name]).resolve() for name in _CERTIFICATES if os.environ.get(name)}
    places = {file.parent: f"/run/certificates-{number}" for number, file in enumerate(files.values())}
    return [
        *[f"--volume={folder}:{place}:ro" for folder, place in places.items()],
        *[f"--build-arg={name}={places[file.parent]}/{file.name}" for name, file in files.items()],
    ]
