"""Debugging aids of training.debug: statistics of layers, a profile, whether one batch can be overfitted.

The files lie beside the checkpoints while training lasts, then in the model's folder."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune_api.training import DebugSpec
from finetune_trainer.errors import storage_errors
from finetune_trainer.layers.find import watched
from finetune_trainer.reporting.history import History
from finetune_trainer.reporting.recorder import Recorder, short

logger = logging.getLogger(__name__)

STATISTICS, TRACE = "statistics.jsonl", "trace.json"
LEARNED = 0.1
"""A batch counts as learned when its loss has fallen to this share of the first one."""


class Moments:
    """Mean, standard deviation and largest magnitude of tensors, added up where they lie."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: Tensor | None = None
        self._largest: Tensor | None = None

    def add(self, tensor: Tensor) -> None:
        """Count the elements of one more tensor."""
        values = tensor.detach().double()
        sums, largest = torch.stack([values.sum(), values.square().sum()]), values.abs().max()
        self.count += values.numel()
        self._sums = sums if self._sums is None else self._sums + sums
        self._largest = largest if self._largest is None else torch.maximum(self._largest, largest)

    def summary(self) -> dict[str, float | None]:
        """For JSON: a number that is not finite is null."""
        if self._sums is None or self._largest is None:
            return {}
        mean, square = (self._sums / self.count).tolist()
        deviation = max(square - mean * mean, 0.0) ** 0.5 if square == square else square
        return {"mean": short(mean), "std": short(deviation), "max": short(self._largest.item())}


class Debug:
    """The debugging aids of one run; `watch` is called around the forward and backward passes of every step."""

    def __init__(self, spec: DebugSpec, model: nn.Module, folder: Path) -> None:
        self.folder = folder
        self._spec, self._model = spec, model
        self._statistics = History(folder / STATISTICS)
        self._profiler: torch.profiler.profile | None = None

    def start(self, step: int) -> None:
        """Training resumes from a step: what was written of later ones is written again."""
        with storage_errors("the debugging aids", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        if self._spec.statistics_every:
            self._statistics.rewind(step)

    @contextmanager
    def watch(self, step: int) -> Iterator[None]:
        """Observe the passes of this step, where the spec asks for it."""
        profile, every = self._spec.profile, self._spec.statistics_every
        if profile and step == profile.from_step:
            self._profiler = _profiler()
            self._profiler.start()
        if every and step % every == 0:
            with layer_statistics(self._model) as layers:
                yield
            for name, (outputs, gradients) in layers.items():
                self._statistics.add(
                    step=step, layer=name, outputs=outputs.summary(), gradients=gradients.summary()
                )
        else:
            yield
        if profile and step == profile.from_step + profile.steps - 1:
            self._export()

    def finish(self, steps: int, entries: list[dict[str, Any]]) -> list[str]:
        """Training ended after this number of steps, with these logged entries; returns what the aids found."""
        self._export()
        found = [verdict(entries)] if self._spec.overfit_one_batch else []
        profile = self._spec.profile
        if profile and not (self.folder / TRACE).exists():
            found.append(
                f"no trace was written: this attempt did not begin step {profile.from_step} (of {steps})"
            )
        return found

    def _export(self) -> None:
        if self._profiler is None:
            return
        self._profiler.stop()
        with storage_errors("the profile", self.folder):
            self._profiler.export_chrome_trace(str(self.folder / TRACE))
        self._profiler = None


def report_findings(debug: Debug | None, recorder: Recorder, step: int) -> str:
    """End the debugging aids after the last step, and report what they showed; returns it for the final message."""
    if debug is None or recorder.history is None:
        return ""
    found = debug.finish(step, recorder.history.entries())
    for sentence in found:
        logger.warning(sentence)
    return "".join(f"; {sentence}" for sentence in found)


def _profiler() -> torch.profiler.profile:
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    return torch.profiler.profile(activities=kinds)


Layers = dict[str, tuple[Moments, Moments]]


@contextmanager
def layer_statistics(model: nn.Module) -> Iterator[Layers]:
    """Statistics of the outputs of every module without submodules, and of the gradients by these outputs.

    The gradients are those of the loss as it is summed over a micro-batch.
    """
    layers: Layers = {}

    def look(name: str, output: Any) -> None:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return
        outputs, gradients = layers.setdefault(name, (Moments(), Moments()))
        outputs.add(output)
        if output.requires_grad:
            output.register_hook(gradients.add)  # type: ignore[no-untyped-call]

    with watched(((name, m) for name, m in model.named_modules() if not any(m.children())), look):
        yield layers


def verdict(entries: list[dict[str, Any]]) -> str:
    """Whether the one batch of an overfit check was learned, as the end of a sentence, from the logged steps."""
    losses = [
        entry["loss"] for entry in entries if entry["event"] == "train" and entry.get("loss") is not None
    ]
    if not losses:
        return "the one batch has no loss to judge"
    first, last = losses[0], losses[-1]
    fell = f"its loss went from {first:.4g} to {last:.4g}"
    if last <= LEARNED * first:
        return f"the one batch was learned: {fell}"
    return (
        f"the one batch was NOT learned: {fell}; train for more steps or at another learning rate, then look at"
        " labels, frozen parts and label smoothing, which keeps the loss above zero"
    )
