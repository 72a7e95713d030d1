"""No byte of a write leaves a process that does not lead; reads do."""

from pathlib import Path

import pytest

from api_stub import JOBS, api_stub
from finetune_core.settings import OperatorSettings
from finetune_operator.cluster import Cluster
from finetune_operator.errors import NotLeaderError
from finetune_operator.leader import Leadership

BODY = {"metadata": {"namespace": "team", "name": "one", "resourceVersion": "1"}}


async def test_only_the_leaders_writes_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    leadership = Leadership(lambda: now)
    with api_stub(tmp_path) as stub:
        monkeypatch.setenv("KUBECONFIG", str(stub.kubeconfig))
        monkeypatch.setattr(
            "kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(stub.kubeconfig)
        )
        stub.replies[f"{JOBS}/one"] = stub.replies[JOBS] = [(200, BODY)]
        settings = OperatorSettings(trainer_image="x:1")
        cluster = await Cluster.connect(settings, lambda *_: None, leadership.check)
        writes = [
            lambda: cluster.create("FineTuneJob", BODY),
            lambda: cluster.delete("FineTuneJob", "team", "one", "uid"),
            lambda: cluster.replace("FineTuneJob", BODY),
            lambda: cluster.patch_spec("FineTuneJob", "team", "one", "uid", "1", {}),
        ]
        try:
            for write in writes:
                with pytest.raises(NotLeaderError):
                    await write()
            assert stub.asked == []
            assert await cluster.get("FineTuneJob", "team", "one") == BODY
            leadership.lead(until=10)
            for write in writes:
                await write()
            now = 10
            with pytest.raises(NotLeaderError):
                await writes[0]()
        finally:
            await cluster.close()
        assert [verb for verb, _, _ in stub.asked] == ["GET", "POST", "DELETE", "PUT", "PATCH"]
