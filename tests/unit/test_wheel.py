"""The wheel, installed into an environment that has nothing else: the packages are complete and the CLI starts."""

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UV = shutil.which("uv") or "uv"


def run(*command: str | Path, folder: Path) -> str:
    """What a command prints, without the packages of the tree on its path."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    backend = ROOT / "cluster" / "images" / "build-backend.txt"
    options = ["--quiet", "--wheel", "--out-dir", folder, "--build-constraint", backend, "--require-hashes"]
    run(UV, "build", *options, ROOT, folder=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_every_module_that_is_not_for_development(wheel: Path) -> None:
    packages = [folder.parent for folder in ROOT.glob("*/finetune_*/__init__.py")]
    wanted = {
        file.relative_to(package.parent).as_posix()
        for package in packages
        if package.name not in ("finetune_cluster", "finetune_demo")
        for file in package.rglob("*.py")
    }
    with zipfile.ZipFile(wheel) as archive:
        assert wanted - set(archive.namelist()) == set()


def test_the_cli_runs_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    run(UV, "venv", "--quiet", tmp_path / "venv", folder=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    install = [UV, "pip", "install", "--quiet", "--python", python]
    run(*install, "--require-hashes", "--requirement", ROOT / "requirements" / "cli.txt", folder=tmp_path)
    run(*install, "--no-deps", wheel, folder=tmp_path)
    program = tmp_path / "venv" / "bin" / "finetune"
    assert "validate" in run(program, "--help", folder=tmp_path)
    assert "valid" in run(program, "validate", ROOT / "examples" / "quickstart.yaml", folder=tmp_path)
