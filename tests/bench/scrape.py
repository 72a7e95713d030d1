"""What the operator's metrics cost: time and size of a scrape, bytes of the cache for what only metrics read.

    python tests/bench/scrape.py

10,000 jobs in the cache, with everything that a trainer reports; no API server.
"""

import sys
import time
import tracemalloc
from pathlib import Path

sys.path[:0] = [
    str(Path(__file__).parents[2] / folder)
    for folder in ("tests", "api", "core", "operator", "trainer-image")
]

from prometheus_client import disable_created_metrics  # noqa: E402

from builders import job, stored  # noqa: E402
from finetune_operator import cache  # noqa: E402
from unit.operator.test_metrics import World, finished, running  # noqa: E402

JOBS, ROUNDS = 10_000, 5
METRICS = {"epochs": [{"epoch": 1, "step": 40, "evalLoss": 0.6, "metrics": {"accuracy": 0.8, "f1": 0.7}}]}


def scrape(live: int) -> None:
    """Print the median over the rounds, of CPU time: other work on the machine does not count."""
    world = World(at=3000)
    for number in range(JOBS):
        world.put(f"job-{number}", running(**METRICS) if number < live else finished(number / 4, **METRICS))
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        page = b"".join(world.metrics.expose())
        times.append(time.process_time() - start)
    series = sum(1 for line in page.splitlines() if not line.startswith(b"#"))
    size, cpu = len(page) / 1e6, sorted(times)[ROUNDS // 2]
    print(f"{live} live of {JOBS} jobs: {series} series, {size:.1f} MB, {cpu:.2f} s of CPU")


def bytes_per_job(names: tuple[str, ...]) -> float:
    """Memory of a job's identity in the cache, with these parts of its metadata."""
    bodies = [stored(job(f"job-{number}"), uid=f"uid-{number:06}") for number in range(JOBS)]
    for number, body in enumerate(bodies):
        body["metadata"] |= {"creationTimestamp": f"2026-01-01T00:{number // 60 % 60:02}:{number % 60:02}Z"}
    tracemalloc.start()
    kept = [
        {name: _copied(body["metadata"][name]) for name in names if name in body["metadata"]}
        for body in bodies
    ]
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / len(kept)


def _copied(value: object) -> object:
    """A separate text, as the parser of an answer makes one."""
    return "".join(list(value)) if isinstance(value, str) else value


def main() -> None:
    """Print what docs/monitoring.md quotes."""
    disable_created_metrics()  # as the operator does
    for live in (100, 1000, JOBS):
        scrape(live)
    without, with_creation = bytes_per_job(cache._IDENTITY), bytes_per_job(cache._IDENTITY_OF_JOBS)
    print(f"creationTimestamp in the cache: {with_creation - without:.0f} bytes a job")


if __name__ == "__main__":
    main()
