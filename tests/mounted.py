"""What a pod finds in a volume of texts, as the kubelet writes it: from a ConfigMap, or from annotations of the pod."""

import re
from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]

_FIELD = re.compile(r"metadata\.annotations\['(.+)'\]")


def files_in(of: Json, config_map: Mapping[str, Any] | None, volume: str = "config") -> dict[str, str]:
    """The files of a pod or of a pod template; `config_map` is the one that it mounts, if it does."""
    (source,) = [one for one in of["spec"]["volumes"] if one["name"] == volume]
    if "configMap" in source:
        assert config_map, f"{volume} is a ConfigMap that does not exist"
        assert source["configMap"]["name"] == config_map["metadata"]["name"]
        return dict(config_map["data"])
    assert config_map is None, "nothing mounts it"
    annotations = of["metadata"]["annotations"]
    return {
        item["path"]: annotations[_annotation(item["fieldRef"]["fieldPath"])]
        for item in source["downwardAPI"]["items"]
    }


def _annotation(field: str) -> str:
    found = _FIELD.fullmatch(field)
    assert found, field
    return found[1]
