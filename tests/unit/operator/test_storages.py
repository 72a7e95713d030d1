"""What Kopf would keep of every object is not kept."""

from finetune_operator.storages import NoMemories


async def test_no_object_is_remembered() -> None:
    memories = NoMemories()
    for number in range(3):
        found = await memories.recall({"metadata": {"uid": str(number)}}, noticed_by_listing=True)
        assert found.noticed_by_listing
        await memories.forget({"metadata": {"uid": str(number)}})
    assert list(memories.iter_all_memories()) == []
    await memories.recall_memo({"metadata": {"uid": "3"}})
    assert list(memories.iter_all_daemon_memories()) == []
