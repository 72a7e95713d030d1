"""How fast the trainer is beside a bare PyTorch loop and transformers.Trainer: same model, rows, batch and steps.

    python tests/bench/trainer_speed.py [--rounds 7] [--window 12] [--only NAME …]

Every variant runs in a process of its own; in every round each trains some steps in turn, so that what else the
machine does falls on all. A ratio is the median over the rounds' pairs, with the interval from its smallest to its
largest value, which holds the true median with 98 % at 7 rounds (sign test). Tokens are those of text: padding does
not count. Auto is what the trainer chooses on this CPU: bfloat16 where the CPU computes in it, else float32, where the
variants of Auto are left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
FOLDERS = ("api", "trainer-image", "demo", "tests")
sys.path[:0] = [str(ROOT / folder) for folder in FOLDERS]

from bench.speed_worker import Plan  # noqa: E402
from bench.start_up import evaluation_memory, start_up  # noqa: E402
from bench.tables import markdown  # noqa: E402
from finetune_demo.materials import prepare  # noqa: E402

Window = dict[str, float]
AUTO = ("ours, Auto", "bare loop, Auto", "HF Trainer, Auto + by length")
VARIANTS = {
    "ours, Auto": ("ours", "Auto"),
    "bare loop, Auto": ("bare", "Auto"),
    "HF Trainer, Auto + by length": ("hf-grouped", "Auto"),
    "ours, Float32": ("ours", "Float32"),
    "bare loop, Float32": ("bare", "Float32"),
    "HF Trainer, by length": ("hf-grouped", "Float32"),
    "HF Trainer, defaults": ("hf", "Float32"),
}
RATIOS = (
    ("ours, Float32", "HF Trainer, defaults", 1.8),
    ("ours, Float32", "HF Trainer, by length", 1.15),
    ("ours, Auto", "HF Trainer, defaults", 3.5),
    ("ours, Auto", "HF Trainer, Auto + by length", 1.15),
)
OVERHEADS = (("ours, Auto", "bare loop, Auto"), ("ours, Float32", "bare loop, Float32"))
MOST_OVERHEAD = 0.03
UNTOUCHED = {"GOMP_SPINCOUNT": "300000"}
"""How long waiting threads spin unless told otherwise, which the trainer does and `transformers.Trainer` does not."""


class Worker:
    """A process that waits before every window of steps."""

    def __init__(self, name: str, plan: Plan, environment: dict[str, str]) -> None:
        self.windows: list[Window] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.speed_worker", json.dumps(asdict(plan))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(Path(plan.scratch) / "log").open("w"),
            env=environment,
            text=True,
        )
        self._name, self._log = name, Path(plan.scratch) / "log"
        self.peak_mib = self._answer()["peak_mib"]

    def run_window(self) -> None:
        """Train one window of steps."""
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        self.windows.append(self._answer())
        self.peak_mib = self.windows[-1]["peak_mib"]

    def _answer(self) -> Window:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._name} ended early:\n{self._log.read_text()[-3000:]}")
        answer: Window = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def environment() -> dict[str, str]:
    """This one, with the project importable and every import's bytecode kept, as in the image."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune-operator" / "bytecode"
    )
    paths = os.pathsep.join(str(ROOT / folder) for folder in FOLDERS)
    return kept | {"PYTHONPATH": paths, "PYTHONPYCACHEPREFIX": str(cache)}


def variants_of_this_cpu() -> list[str]:
    """All, or without bfloat16 those of float32."""
    program = (
        "from finetune_trainer.process.devices import _computes_bfloat16 as able; print(able(on_gpu=False))"
    )
    command = [sys.executable, "-c", program]
    told = subprocess.run(command, stdout=subprocess.PIPE, env=environment(), text=True, check=True).stdout
    return [name for name in VARIANTS if told.strip() == "True" or name not in AUTO]


def measure(names: list[str], options: argparse.Namespace, folder: Path) -> dict[str, Worker]:
    """Every variant, in turns; the order is reversed from round to round."""
    with ExitStack() as stack:
        workers = {}
        for number, name in enumerate(names):
            scratch = folder / str(number)
            scratch.mkdir()
            variant, precision = VARIANTS[name]
            plan = Plan(
                variant=variant,
                model=str(folder / "models" / "minilm"),
                data=str(folder / "data" / "movie-reviews.jsonl"),
                precision=precision,
                steps=options.warmup + options.rounds * options.window + 1,
                warmup=options.warmup,
                window=options.window,
                scratch=str(scratch),
                micro_batch_size=options.micro_batch_size,
            )
            kept = UNTOUCHED if variant.startswith("hf") else {}
            workers[name] = stack.enter_context(Worker(name, plan, environment() | kept))
        for turn in range(options.rounds):
            for name in names if turn % 2 == 0 else reversed(names):
                workers[name].run_window()
            print(f"round {turn + 1} of {options.rounds}", file=sys.stderr)
    return workers


def rate(windows: list[Window], clock: str) -> float:
    """Tokens of text per second of a clock: wall or cpu."""
    return sum(w["tokens"] for w in windows) / sum(w[clock] for w in windows)


def ratio(over: Worker, under: Worker, clock: str) -> tuple[float, float, float]:
    """Median, smallest and largest quotient of two variants' tokens per second over the rounds."""
    pairs = zip(over.windows, under.windows, strict=True)
    found = [(a["tokens"] / a[clock]) / (b["tokens"] / b[clock]) for a, b in pairs]
    return statistics.median(found), min(found), max(found)


def speed_table(workers: dict[str, Worker]) -> list[dict[str, Any]]:
    """One row for each variant."""
    return [
        {
            "variant": name,
            "text tokens/s": round(rate(worker.windows, "wall")),
            "per CPU second": round(rate(worker.windows, "cpu")),
            "peak memory, MiB": round(worker.peak_mib),
        }
        for name, worker in workers.items()
    ]


def ratio_table(workers: dict[str, Worker]) -> list[dict[str, Any]]:
    """One row for each bar that both sides were measured for."""
    rows = []
    for over, under, bar in RATIOS:
        if {over, under} <= workers.keys():
            by_clock = {clock: ratio(workers[over], workers[under], clock) for clock in ("wall", "cpu")}
            rows.append(
                {"figure": f"{over} ÷ {under}"}
                | {f"by {clock}": "{:.2f} × ({:.2f}–{:.2f})".format(*r) for clock, r in by_clock.items()}
                | {"bar": f"≥ {bar} ×", "reached": by_clock["wall"][0] >= bar}
            )
    for over, under in OVERHEADS:
        if {over, under} <= workers.keys():
            by_clock = {clock: ratio(workers[under], workers[over], clock) for clock in ("wall", "cpu")}
            percent = {clock: [100 * (part - 1) for part in r] for clock, r in by_clock.items()}
            rows.append(
                {"figure": f"overhead of {over} over {under}"}
                | {f"by {clock}": "{:+.1f} % ({:+.1f} to {:+.1f})".format(*p) for clock, p in percent.items()}
                | {"bar": "≤ 3 % of CPU", "reached": percent["cpu"][0] <= 100 * MOST_OVERHEAD}
            )
    return rows


def main() -> None:
    """Print the tables and write out/trainer-speed.json."""
    parser = argparse.ArgumentParser("trainer_speed", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--window", type=int, default=12, help="steps of a variant in a round (%(default)s)")
    parser.add_argument(
        "--warmup",
        type=int,
        default=20,
        help="steps before the first round, in which shapes are met for the first time (%(default)s)",
    )
    parser.add_argument(
        "--micro-batch-size", type=int, help="of ours and the bare loop; default: the trainer's"
    )
    parser.add_argument(
        "--only", nargs="+", choices=VARIANTS, help="some variants; no start-up, no evaluation"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, rows=None)
        workers = measure(options.only or variants_of_this_cpu(), options, folder)
        tables = [speed_table(workers), ratio_table(workers)]
        if not options.only:
            tables += [start_up(folder, environment()), evaluation_memory(folder, environment())]
    for table in tables:
        print(markdown(table))
    raw = {name: worker.windows for name, worker in workers.items()}
    out = ROOT / "out" / "trainer-speed.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"tables": tables, "windows": raw}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
