"""Our three images: what each is built from, and what the script image adds to the trainer image."""

import re
from pathlib import Path

import pytest

from finetune_cluster.errors import ClusterError
from finetune_cluster.imagespecs import SPECS, ImageSpec, chosen, tag

ROOT = Path(__file__).parents[3]
_PIN = re.compile(r"^([a-z0-9-]+==\S+(?: ; [^\\]+)?)", re.MULTILINE)
IMAGES = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.key)


def keys(*wanted: str) -> list[str]:
    return [spec.key for spec in chosen(wanted)]


def pins(name: str) -> set[str]:
    """`package==version ; marker` of a lock file."""
    return {pin.strip() for pin in _PIN.findall((ROOT / "requirements" / name).read_text())}


def project(folder: Path, spec: ImageSpec, **changed: str) -> Path:
    """A project in which the inputs of an image are one-line files, `changed` by their last name without suffix."""
    for path in (spec.dockerfile, *spec.inputs):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(changed.get(file.stem, "as it was"))
    return folder


@IMAGES
def test_every_input_of_our_images_exists_and_is_copied_by_its_dockerfile(spec: ImageSpec) -> None:
    """What is hashed but ignored by the build, or the other way round, gives images that are not what they say."""
    assert len(tag(spec, ROOT)) == 12
    dockerfile = (ROOT / spec.dockerfile).read_text()
    for path in spec.inputs:
        assert path in dockerfile, f"{path} makes the tag change but is not copied by {spec.dockerfile}"


@IMAGES
def test_an_image_is_a_stage_of_its_dockerfile(spec: ImageSpec) -> None:
    assert f" AS {spec.target}\n" in (ROOT / spec.dockerfile).read_text()


def test_without_a_key_all_three_images_are_built() -> None:
    assert keys() == ["operator", "trainer", "script"]


def test_the_demo_s_images_are_those_that_it_names() -> None:
    assert keys("trainer", "operator") == ["operator", "trainer"]


def test_an_unknown_image_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ClusterError, match="no image trainr; known are operator, trainer, script"):
        keys("operator", "trainr")


@pytest.mark.parametrize(
    ("file", "moves"),
    [
        ("scripts", {"script"}),
        ("trainer", {"trainer", "script"}),
        ("finetune_trainer", {"trainer", "script"}),
        ("finetune_operator", {"operator"}),
        ("finetune_core", {"operator"}),
        ("bootstrap", {"operator", "trainer", "script"}),
    ],
)
def test_a_change_moves_the_images_that_read_it_and_no_other(
    file: str, moves: set[str], tmp_path: Path
) -> None:
    moved = {
        spec.key
        for spec in SPECS
        if tag(spec, project(tmp_path / spec.key, spec))
        != tag(spec, project(tmp_path / f"{spec.key}-changed", spec, **{file: "changed"}))
    }
    assert moved == moves


def test_the_script_image_has_every_package_of_the_trainer_in_the_same_version() -> None:
    """Another version would be written over the trainer's layer: a second copy of torch is gigabytes."""
    assert len(pins("trainer.txt")) > 30
    assert pins("trainer.txt") <= pins("scripts.txt")


@pytest.mark.parametrize("package", ["datasets", "evaluate", "scikit-learn", "trl"])
def test_what_only_scripts_need_is_in_the_script_image_alone(package: str) -> None:
    assert [name for name in ("trainer.txt", "scripts.txt") if _names(name) & {package}] == ["scripts.txt"]


def _names(lock: str) -> set[str]:
    return {pin.partition("==")[0] for pin in pins(lock)}
