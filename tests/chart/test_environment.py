"""The chart's values become the operator's settings: every variable is known, every value arrives."""

import pytest

from chart.rendering import ALL, NAMESPACED, Json, Rendered
from finetune_api.finetunejob import Preflight
from finetune_api.resources import TaintEffect, Toleration, TolerationOperator
from finetune_core.settings import OperatorSettings, PullPolicy
from finetune_operator.settings import load

TRAINER = "ghcr.io/finetune-dev/finetune-trainer:0.1.0"
SCRIPT = "ghcr.io/finetune-dev/finetune-script:0.1.0"
PREFIX = "FINETUNE_OPERATOR_"
PREDECESSORS = (
    "app.kubernetes.io/component=operator,app.kubernetes.io/instance=finetune-operator,"
    "app.kubernetes.io/name=finetune-operator,!finetune.dev/leader-election"
)
# settings that the chart does not offer: the ports are the pod's own, the rest is for tests and for measuring
NOT_IN_THE_CHART = {
    "http_port",
    "progress_port",
    "progress_audience",
    "tls_folder",
    "progress_interval",
    "retry_backoff",
    "resync_interval",
    "api_qps",
    "api_burst",
    "api_connections",
}


def settings_of(values: Json) -> OperatorSettings:
    """The settings of an operator in the chart's pod."""
    return load(Rendered.of(values).environment)


def test_the_chart_offers_every_setting_but_those_we_left_out() -> None:
    names = {
        variable["name"]
        for values in (ALL, {"progress": {"enabled": True}})
        for variable in Rendered.of(values).container["env"]
    }
    offered = {name.removeprefix(PREFIX).lower() for name in names}
    assert offered == set(OperatorSettings.model_fields) - NOT_IN_THE_CHART


def test_the_charts_defaults_are_the_operators() -> None:
    assert settings_of({}) == OperatorSettings(
        trainer_image=TRAINER,
        script_image=SCRIPT,
        progress_url="https://finetune-operator.finetune-system.svc",
        tls_secret="finetune-system/finetune-operator-tls",
        lease="finetune-system/finetune-operator",
        predecessors=PREDECESSORS,
    )


def test_every_value_arrives() -> None:
    assert settings_of(ALL) == OperatorSettings(
        namespaces=["team-a", "team-b"],
        trainer_image="127.0.0.1:5000/finetune-trainer:abc",
        script_image="127.0.0.1:5000/finetune-script:abc",
        image_pull_policy=PullPolicy.NEVER,
        allowed_images=["registry.example/team/*"],
        allowed_priority_classes=["batch-*"],
        allowed_tolerations=[],
        output_size="1Ti",
        output_storage_class="fast",
        output_access_mode="ReadWriteMany",
        gpus_per_node=0,
        gpu_resource="amd.com/gpu",
        node_lost_seconds=120,
        startup_deadline=7200,
        gpu_memory="80Gi",
        preflight=Preflight.SKIP,
        simulate_gpus=True,
        requests={"cpu": "4", "memory": "17179869184", "ephemeral-storage": "1.5Gi"},
        limits={"memory": "16Gi"},
        node_selector={"gpu": "true"},
        tolerations=[
            Toleration(
                key="gpu",
                operator=TolerationOperator.EQUAL,
                value="yes",
                effect=TaintEffect.NO_EXECUTE,
                toleration_seconds=1_000_000,
            ),
            Toleration(operator=TolerationOperator.EXISTS),
        ],
        image_pull_secrets=["trainer-pull"],
        runtime_class="nvidia",
        pod_labels={"team": "search"},
        pod_annotations={"karpenter.sh/do-not-disrupt": "true"},
        platform_ids=True,
        hub_endpoint="https://hub.example/mirror",
        hub_offline=True,
        kueue=False,
        priority_boost=50,
        run_as_user=1_000_650_000,
        run_as_group=0,
        fs_group=1_000_650_001,
        lease="finetune-system/tuner",
        predecessors=PREDECESSORS,
        workers=4,
        log_format="json",
        log_level="DEBUG",
    )


def test_the_operator_watches_the_namespaces_that_it_has_rights_in() -> None:
    assert settings_of(NAMESPACED).namespaces == ["team-a", "team-b"]
    assert settings_of({"rbac": {"scope": "namespaces"}}).namespaces == ["finetune-system"]


@pytest.mark.parametrize(
    ("trainer", "script"),
    [
        ({"image": "registry.example/trainer:1"}, "registry.example/trainer:1"),
        (
            {"image": "registry.example/trainer:1", "scriptImage": "registry.example/script:1"},
            "registry.example/script:1",
        ),
        ({"scriptImage": "registry.example/script:1"}, "registry.example/script:1"),
    ],
)
def test_scripts_of_a_cluster_with_its_own_trainer_image_need_no_other_registry(
    trainer: Json, script: str
) -> None:
    assert settings_of({"trainer": trainer}).script_image == script
