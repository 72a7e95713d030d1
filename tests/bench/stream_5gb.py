"""How much memory a large data file takes: the trainer on a generated jsonl, against the same run on a small one.

    make bench-stream        5 GB; python tests/bench/stream_5gb.py --rows 2000000 for 1 GB

A tiny BERT, twenty steps, `deduplicate: Exact`. Anonymous memory cannot be given back; file pages (the mapped tokens)
can, and are shown apart. Needs about 1.7 times the file's size in the scratch folder.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATHS = [str(ROOT / folder) for folder in ("api", "trainer-image", "tests")]
sys.path[:0] = PATHS

from unit.trainer.tiny import BAD, GOOD, NEUTRAL, build_model, job, reviews, write_jsonl  # noqa: E402

ROW_BYTES = 500
STEPS = 20


def main() -> None:
    """Print the memory of both runs and their difference."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=11_200_000)
    parser.add_argument("--scratch", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        base = build_model(Path(scratch) / "model")
        small, _ = measured(Path(scratch), base, 1000)
        large, seconds = measured(Path(scratch), base, options.rows)
    beyond = {name: large[name] - small[name] for name in large}
    print(
        f"{options.rows:,} rows in {seconds:.0f} s: {beyond['RssAnon'] / 1024:.0f} MiB of anonymous memory more than"
        f" with 1,000 rows ({large['RssAnon'] / 1024:.0f} MiB at its peak), and {beyond['RssFile'] / 1024:.0f} MiB"
        " of file pages"
    )


def measured(scratch: Path, base: Path, rows: int) -> tuple[dict[str, int], float]:
    """Peaks of resident memory in KiB by kind, and seconds, of a run on so many rows."""
    folder = scratch / f"run-{rows}"
    training = {"epochs": None, "maxSteps": STEPS}
    dataset = {"split": None, "preprocessing": {"maxLength": 128, "deduplicate": "Exact"}}
    made = job(folder, base, [], training=training, dataset=dataset)
    made.config["dataset"]["validation"] = {
        "path": str(write_jsonl(folder / "validation.jsonl", reviews(64)))
    }
    size = generate(folder / "train.jsonl", rows)
    print(f"{rows:,} rows, {size / 1e9:.2f} GB", flush=True)
    began = time.monotonic()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)}
    process = subprocess.Popen([sys.executable, "-m", "finetune_trainer", str(made.write())], env=environment)
    peaks = {"RssAnon": 0, "RssFile": 0}
    watch = threading.Thread(target=_watch, args=(process, peaks))
    watch.start()
    code = process.wait()
    watch.join()
    if code:
        sys.exit(f"the trainer ended with {code}")
    return peaks, time.monotonic() - began


def generate(path: Path, rows: int) -> int:
    """Write reviews of about 500 bytes, each of other words; returns the file's size."""
    rng, words = random.Random(0), [*GOOD, *BAD, *NEUTRAL]
    texts = [" ".join(rng.choices(words, k=40)) for _ in range(10_000)]
    with path.open("w") as file:
        for number in range(rows):
            left, right = rng.choice(texts), rng.choice(texts)
            row = {
                "text": f"{left} {right}"[: ROW_BYTES - 60] + f" {number}",
                "label": ("neg", "pos")[number % 2],
            }
            file.write(json.dumps(row) + "\n")
    return path.stat().st_size


def _watch(process: subprocess.Popen[bytes], peaks: dict[str, int]) -> None:
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        for line in status.read_text().splitlines():
            name, _, value = line.partition(":")
            if name in peaks:
                peaks[name] = max(peaks[name], int(value.split()[0]))
        time.sleep(0.05)


if __name__ == "__main__":
    main()
