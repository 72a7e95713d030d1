"""What a first start builds: programs are compiled and images built side by side, and it says how long that takes."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from finetune_cluster import debian, folders
from finetune_cluster.binaries import binary, in_cache
from finetune_cluster.images import Builder
from finetune_cluster.imagespecs import ImageSpec, tag
from finetune_cluster.progress import say

SECONDS = {"kube-apiserver": 330, "trainer": 330, "operator": 70, "script": 70}
"""How long a program or an image usually takes on two cores, the first image with the base of all."""
OTHERS = 17
"""The same for any other program, most of which is compiled already."""


def build(programs: Sequence[str], specs: Sequence[ImageSpec], builder: Builder) -> None:
    """Compile what is missing. Where something is, build the images meanwhile."""
    missing = [program for program in programs if not in_cache(program)]
    if not missing:
        return
    say(announcement(missing, len(programs), [spec.key for spec in specs]))
    debian.require({**debian.RUNC_BUILD, **(debian.IMAGES if specs else {})})  # apt works for one at a time
    with ThreadPoolExecutor(max_workers=1) as beside:
        images = [
            beside.submit(builder.build, spec, f"{spec.name}:{tag(spec, folders.PROJECT)}") for spec in specs
        ]
        for program in missing:
            binary(program)
        for image in images:
            image.result()


def announcement(missing: Sequence[str], wanted: int, images: Sequence[str]) -> str:
    """What is built, what is in the cache, and the usual time: that of the longer side, and half of the other."""
    compiling = sum(SECONDS.get(program, OTHERS) for program in missing)
    building = sum(SECONDS[image] for image in images)
    minutes = (max(compiling, building) + min(compiling, building) / 2) / 60
    cached = f", {wanted - len(missing)} more are in the cache" if len(missing) < wanted else ""
    side = f" and builds the images {' and '.join(images)} meanwhile" if images else ""
    return (
        f"The first start compiles {len(missing)} programs of Kubernetes{cached}{side}: usually {minutes:.0f} min"
        f" on two cores. Everything stays in {folders.cache()}, so the next start takes seconds."
    )
