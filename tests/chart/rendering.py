"""The chart as Helm renders it. A refusal is what Helm says about values that it does not take."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from finetune_cluster.binaries import binary

Json = dict[str, Any]

CHART = Path(__file__).resolve().parents[2] / "charts" / "finetune-operator"
RELEASE, NAMESPACE = "finetune-operator", "finetune-system"
DEFAULTS: Json = yaml.safe_load((CHART / "values.yaml").read_text())
# every value set to something else than its default
ALL: Json = yaml.safe_load(Path(__file__).with_name("all-values.yaml").read_text())
NAMESPACED: Json = {"rbac": {"scope": "namespaces", "namespaces": ["team-a", "team-b"]}}


def helm(*arguments: str, values: Json | None = None) -> "subprocess.CompletedProcess[str]":
    """Run Helm, with values on standard input."""
    command = [str(binary("helm")), *arguments, "--values", "-"]
    return subprocess.run(
        command, input=json.dumps(values or {}), capture_output=True, text=True, check=False, timeout=120
    )


@cache
def _template(values: str, release: str, namespace: str) -> str:
    done = helm("template", release, str(CHART), "--namespace", namespace, values=json.loads(values))
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal(values: Json) -> str:
    """What Helm says about values that the chart's schema refuses."""
    done = helm("template", RELEASE, str(CHART), values=values)
    assert done.returncode, "these values are accepted"
    return done.stderr


@dataclass(frozen=True)
class Rendered:
    """The objects of a release."""

    objects: list[Json]

    @classmethod
    def of(
        cls, values: Json | None = None, *, release: str = RELEASE, namespace: str = NAMESPACE
    ) -> "Rendered":
        """Render, which has to succeed."""
        text = _template(json.dumps(values or {}), release, namespace)
        return cls([one for one in yaml.load_all(text, yaml.CSafeLoader) if one])

    def all(self, *kinds: str) -> Iterator[Json]:
        return (one for one in self.objects if one["kind"] in kinds)

    def only(self, kind: str) -> Json:
        """The one object of a kind."""
        (found,) = self.all(kind)
        return found

    @property
    def pod(self) -> Json:
        return self.only("Deployment")["spec"]["template"]["spec"]

    @property
    def container(self) -> Json:
        (found,) = self.pod["containers"]
        return found

    @property
    def environment(self) -> dict[str, str]:
        """The variables whose values the chart gives; the pod's own name and address come with the pod."""
        return {one["name"]: one["value"] for one in self.container["env"] if "value" in one}
