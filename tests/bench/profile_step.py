"""Where the time of a training step goes, by kind of operation. `python tests/bench/profile_step.py [Auto|Float32]`.

The share of an operation is its own time on the thread that called it, in the trainer's own steps on movie snippets.
Beside it the rate at which this machine multiplies matrices of the model's shape, and the share of waiting for data.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("api", "trainer-image", "demo", "tests")]

from bench.speed_worker import Plan, build  # noqa: E402
from bench.tables import markdown  # noqa: E402
from finetune_demo.materials import prepare  # noqa: E402
from finetune_trainer.process.allocator import keep_freed_memory  # noqa: E402
from finetune_trainer.process.threads import configure  # noqa: E402

WARMUP, STEPS = 3, 8
KINDS = {
    "matrix multiplication": ("mm", "addmm", "bmm", "linear", "mkldnn", "baddbmm"),
    "attention": ("scaled_dot_product", "softmax"),
    "dropout masks": ("bernoulli", "random_", "ge", "dropout"),
    "embedding": ("embedding", "index"),
    "activation": ("gelu", "tanh"),
    "normalisation": ("native_layer_norm", "layer_norm"),
    "optimizer and clipping": ("_fused_adamw", "_foreach", "norm", "linalg_vector_norm"),
    "copies and fills": ("copy_", "fill_", "zero_", "clone", "cat", "contiguous", "transpose", "view"),
    "element by element": ("mul", "add", "div", "sum", "where", "sub"),
}


def kind_of(operation: str) -> str:
    """The longest beginning of its name that a kind knows decides."""
    name = operation.removeprefix("aten::").removeprefix("autograd::")
    known = [
        (len(start), kind) for kind, starts in KINDS.items() for start in starts if name.startswith(start)
    ]
    return max(known)[1] if known else "all others"


def matrix_rate(precision: str) -> float:
    """GFLOP/s of MiniLM's widest product over 2,048 tokens, the median of 50."""
    import torch

    dtype = torch.bfloat16 if precision == "BFloat16" else torch.float32
    tokens, weights = torch.randn(2048, 384, dtype=dtype), torch.randn(384, 1536, dtype=dtype)
    seconds = []
    for _ in range(60):
        began = time.perf_counter()
        tokens @ weights
        seconds.append(time.perf_counter() - began)
    return 2 * 2048 * 384 * 1536 / statistics.median(seconds[10:]) / 1e9


def main() -> None:
    """Print the table."""
    precision = sys.argv[1] if len(sys.argv) > 1 else "Auto"
    configure()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, rows=None)
        model, data = folder / "models" / "minilm", folder / "data" / "movie-reviews.jsonl"
        plan = Plan("ours", str(model), str(data), precision, WARMUP + STEPS, WARMUP, STEPS, name)
        setup = build(plan)

    from torch.profiler import ProfilerActivity, profile

    from finetune_trainer.training.loop import train_step

    for _ in range(WARMUP):
        train_step(setup.run, setup.state)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        steps = [train_step(setup.run, setup.state) for _ in range(STEPS)]
    own: dict[str, float] = {}
    for event in profiler.key_averages():
        own[kind_of(event.key)] = own.get(kind_of(event.key), 0.0) + event.self_cpu_time_total
    total = sum(own.values())
    ranked = sorted(own.items(), key=lambda item: -item[1])
    print(markdown([{"kind": kind, "share": f"{100 * part / total:.0f} %"} for kind, part in ranked]))
    others = sorted((e for e in profiler.key_averages()), key=lambda e: -e.self_cpu_time_total)[:12]
    computed = setup.run.task.compute.precision.value
    print(f"{computed} products of matrices of the model's shape: {matrix_rate(computed):.0f} GFLOP/s")
    waited = sum(step.waited for step in steps) / sum(step.seconds for step in steps)
    print(f"waiting for data: {100 * waited:.1f} % of a step")
    print(", ".join(f"{e.key} {100 * e.self_cpu_time_total / total:.1f} %" for e in others))


if __name__ == "__main__":
    main()
