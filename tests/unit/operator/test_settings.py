"""Settings come from variables; a wrong one is named, and the process does not start."""

import subprocess
import sys

import pytest

from finetune_core.settings import OperatorSettings
from finetune_operator.errors import SettingsError
from finetune_operator.settings import load

PREFIX = "FINETUNE_OPERATOR_"


def loaded(**variables: str) -> OperatorSettings:
    return load({PREFIX + name: value for name, value in ({"TRAINER_IMAGE": "x"} | variables).items()})


def refusal(**variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        loaded(**variables)
    return str(caught.value)


def test_lists_and_maps_are_json() -> None:
    found = loaded(
        NAMESPACES='["a", "b"]',
        LIMITS='{"memory": "16Gi"}',
        TOLERATIONS='[{"key": "gpu", "operator": "Exists"}]',
    )
    assert (found.namespaces, found.limits) == (["a", "b"], {"memory": "16Gi"})
    assert found.tolerations[0].key == "gpu"


def test_an_unknown_variable_is_refused_by_its_name() -> None:
    message = refusal(TRAINER_IMGE="y")
    assert message.startswith("unknown variable FINETUNE_OPERATOR_TRAINER_IMGE")
    assert "FINETUNE_OPERATOR_TRAINER_IMAGE" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NAMESPACES", "a,b"),
        ("NAMESPACES", '{"a": 1}'),
        ("LIMITS", "memory=1Gi"),
        ("WORKERS", "0"),
        ("WORKERS", "many"),
        ("IMAGE_PULL_POLICY", "Sometimes"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
        ("API_QPS", "0"),
        ("TOLERATIONS", '[{"operator": "Perhaps"}]'),
    ],
)
def test_a_wrong_value_is_refused_by_the_variable_s_name(name: str, value: str) -> None:
    assert refusal(**{name: value}).startswith(PREFIX + name)


def test_the_trainer_s_image_has_to_be_given() -> None:
    with pytest.raises(SettingsError, match=PREFIX + "TRAINER_IMAGE"):
        load({})


def test_only_the_given_variables_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + "WORKERS", "3")
    assert loaded(LOG_LEVEL="DEBUG").workers == 16
    assert OperatorSettings(trainer_image="x").workers == 16
    assert load({"finetune_operator_trainer_image": "y"}).trainer_image == "y"


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError):
        OperatorSettings(trainer_image="x").workers = 3  # type: ignore[misc]


def test_the_process_says_what_is_wrong_in_one_line_and_ends_with_1() -> None:
    environment = {"PYTHONPATH": ":".join(sys.path), "FINETUNE_OPERATOR_HOLOGRAM": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "finetune_operator"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("finetune-operator: unknown variable FINETUNE_OPERATOR_HOLOGRAM")
    assert done.stderr.count("\n") == 1
