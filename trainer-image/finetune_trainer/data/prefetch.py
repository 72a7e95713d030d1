"""Makes what is needed next in a thread, while the device computes."""

import logging
from collections.abc import Callable, Generator, Iterable
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import TypeVar

Key = TypeVar("Key")
Made = TypeVar("Made")

DEPTH = 2
"""Results that are made and not yet taken."""
JOIN_SECONDS = 5.0
"""For which the end waits for the thread: storage may hang. A process must not leave while torch runs in a thread."""

logger = logging.getLogger(__name__)


def prefetched(make: Callable[[Key], Made], keys: Iterable[Key], depth: int = DEPTH) -> Generator[Made]:
    """`make(key)` of every key, in their order, at most `depth` of them ahead of the caller.

    What the thread raises is raised where its result would have come. Close the generator to end the thread early.
    """
    results = SimpleQueue[tuple[Made] | BaseException | None]()
    room, closed = Semaphore(depth), Event()

    def work() -> None:
        try:
            for key in keys:
                room.acquire()
                if closed.is_set():
                    return
                results.put((make(key),))
            results.put(None)
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
            results.put(error)

    thread = Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while (result := results.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            room.release()
            yield result[0]
    finally:
        closed.set()
        room.release()
        thread.join(JOIN_SECONDS)
        if thread.is_alive():
            logger.warning(f"a batch is still being read after {JOIN_SECONDS:g} s: does the storage hang?")
