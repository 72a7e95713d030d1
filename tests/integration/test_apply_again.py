"""Applying the same file again, in any mix of client-side and server-side apply, changes nothing."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from builders import MODEL, REVIEWS, job
from conventions.test_examples import IN_FILES, IN_PAGES

Json = dict[str, Any]
Output = Callable[..., str]

CLIENT, SERVER = ("apply", "-f", "-"), ("apply", "--server-side", "-f", "-")
TAKEN_OVER = (*SERVER, "--field-manager=argocd-controller", "--force-conflicts")
"""How Argo CD and Flux take over an object that was applied with kubectl."""


def applied(output: Output, written: Json, *ways: tuple[str, ...]) -> list[Json]:
    """The stored spec after every apply, and the generation of the last."""
    text, found = yaml.safe_dump(written), []
    for way in ways:
        stored = json.loads(output(*way, "-o", "json", text=text))
        found.append({"generation": stored["metadata"]["generation"], "spec": stored["spec"]})
    return found


def unchanged(states: list[Json]) -> bool:
    return states[0]["generation"] == 1 and all(state == states[0] for state in states)


@pytest.mark.parametrize(("place", "written"), IN_FILES + IN_PAGES)
def test_every_job_that_we_show_is_applied_again_without_a_change(
    output: Output, place: str, written: Json
) -> None:
    states = applied(output, written, CLIENT, SERVER, SERVER, TAKEN_OVER, CLIENT)
    assert unchanged(states), place


EMPTY: dict[str, Json] = {
    "parts of the job": job(training={}, resources={}, scheduling={}, output={}, retry={}),
    "parts of the data": job(
        dataset={"train": {"uri": REVIEWS}, "validation": {}, "columns": {}, "preprocessing": {}}
    ),
    "parts of the training": job(
        training={
            part: {}
            for part in (
                "optimizer",
                "schedule",
                "evaluation",
                "earlyStopping",
                "checkpoint",
                "onNonFinite",
                "debug",
            )
        }
    ),
    "a profile and a plateau": job(
        training={"schedule": {"name": "Plateau", "plateau": {}}, "debug": {"profile": {}}}
    ),
    "an adapter": job(model={"uri": MODEL, "adapter": {"lora": {}}}),
    "a frozen model with a head": job(model={"uri": MODEL, "freeze": {}, "head": {}}),
    "regression": job(objective={"regression": {}}),
    "token classification": job(objective={"tokenClassification": {}}),
    "a language model": job(objective={"causalLM": {}}),
    "maps": job(resources={"requests": {}, "limits": {}}, scheduling={"nodeSelector": {}}),
}


@pytest.mark.parametrize("title", EMPTY)
def test_an_object_written_as_empty_is_applied_again_without_a_change(output: Output, title: str) -> None:
    states = applied(output, EMPTY[title], CLIENT, SERVER, SERVER, TAKEN_OVER)
    assert unchanged(states), json.dumps(states, indent=1)


def test_after_the_take_over_a_job_is_suspended_and_resumed_by_the_file(output: Output) -> None:
    written = job()
    applied(output, written, CLIENT, SERVER, SERVER)
    for suspend in (True, False):
        states = applied(output, written | {"spec": written["spec"] | {"suspend": suspend}}, SERVER)
        assert states[0]["spec"]["suspend"] is suspend


MIXES = list(itertools.product((CLIENT, SERVER), repeat=3))


@pytest.mark.parametrize("mix", MIXES, ids=[", ".join(way[1] for way in mix) for mix in MIXES])
def test_any_mix_of_client_side_and_server_side_apply_changes_nothing(
    output: Output, mix: tuple[tuple[str, ...], ...]
) -> None:
    assert unchanged(applied(output, job(), *mix, SERVER))
