"""What each of the trainer's means against the costs of a CPU brings: a step with all of them, and without one.

    python tests/bench/levers.py [--precision Auto] [--micro-batch-size 32]

As in `trainer_speed`, every variant runs in a process of its own and they take turns; it says how a ratio is told.
"""

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("api", "trainer-image", "demo", "tests")]

from bench.speed_worker import LEVERS, Plan  # noqa: E402
from bench.tables import markdown  # noqa: E402
from bench.trainer_speed import UNTOUCHED, Worker, environment, rate, ratio  # noqa: E402
from finetune_demo.materials import prepare  # noqa: E402

ALL, SPINNING, SLEEPING = "all", "default spinning", "no spinning"
WAITING = {
    SPINNING: {"OMP_WAIT_POLICY": "PASSIVE"} | UNTOUCHED,
    SLEEPING: {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"},
}
WARMUP, WINDOW, ROUNDS = 20, 8, 7


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser("levers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--precision", default="Auto")
    parser.add_argument("--micro-batch-size", type=int, help="default: the trainer's")
    options = parser.parse_args()
    names = [ALL, *LEVERS, SPINNING, SLEEPING]
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        prepare(folder, rows=None)
        workers = {}
        for variant in names:
            scratch = folder / variant
            scratch.mkdir()
            plan = Plan(
                variant="ours",
                model=str(folder / "models" / "minilm"),
                data=str(folder / "data" / "movie-reviews.jsonl"),
                precision=options.precision,
                steps=WARMUP + ROUNDS * WINDOW + 1,
                warmup=WARMUP,
                window=WINDOW,
                scratch=str(scratch),
                micro_batch_size=options.micro_batch_size,
                without=variant if variant in LEVERS else "",
            )
            found = Worker(variant, plan, environment() | WAITING.get(variant, {}))
            workers[variant] = stack.enter_context(found)
        for turn in range(ROUNDS):
            for variant in names if turn % 2 == 0 else reversed(names):
                workers[variant].run_window()
            print(f"round {turn + 1} of {ROUNDS}", file=sys.stderr)
    speed = {"text tokens/s": round(rate(workers[ALL].windows, "wall"))}
    rows = [{"step": f"with {ALL}"} | speed | {"slower by wall": "", "slower by cpu": ""}]
    for variant in names[1:]:
        told = {
            f"slower by {clock}": "{:.2f} × ({:.2f}–{:.2f})".format(
                *ratio(workers[ALL], workers[variant], clock)
            )
            for clock in ("wall", "cpu")
        }
        speed = {"text tokens/s": round(rate(workers[variant].windows, "wall"))}
        rows.append({"step": variant if variant in WAITING else f"without {variant}"} | speed | told)
    print(markdown(rows))


if __name__ == "__main__":
    main()
