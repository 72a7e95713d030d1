"""What a first start says before it compiles, and how steps that run side by side are shown."""

from finetune_cluster import components
from finetune_cluster.binaries import family_of
from finetune_cluster.firstbuild import SECONDS, announcement
from finetune_cluster.imagespecs import SPECS
from finetune_cluster.progress import Step, live_line


def test_a_first_start_says_what_it_builds_and_how_long_that_takes() -> None:
    everything = components.programs()
    line = announcement(everything, len(everything), ["operator", "trainer"])
    assert (
        f"compiles {len(everything)} programs of Kubernetes and builds the images operator and trainer"
        in line
    )
    assert "usually 14 min on two cores" in line
    assert "are in the cache" not in line


def test_what_is_in_the_cache_is_not_counted() -> None:
    line = announcement(["etcd", "helm"], 21, [])
    assert "compiles 2 programs of Kubernetes, 19 more are in the cache: usually 1 min" in line


def test_every_program_can_be_built_and_every_image_has_a_usual_time() -> None:
    assert all(family_of(program) for program in components.programs())
    assert {spec.key for spec in SPECS} <= set(SECONDS)


def test_steps_of_several_threads_share_one_line() -> None:
    running = [Step("Building kube-apiserver", 10), Step("Building the image finetune-trainer", 20)]
    assert live_line(running, 30, 60) == "Building kube-apise … 20 s · Building the image  … 10 s"
    assert len(live_line(running, 30, 40)) < 40
    assert live_line(running[:1], 30, 80) == "Building kube-apiserver … 20 s"
