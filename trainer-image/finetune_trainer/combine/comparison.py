"""The combination beside its members, by the metric that decides: which is better, and by how much. Pure."""

from dataclasses import dataclass
from statistics import fmean

from finetune_api.combine import CombineConfig, CombineRule, Publish
from finetune_api.metrics import Direction, direction, improves, plain
from finetune_api.run import FaultPlace
from finetune_api.status import CombinationStatus, Published
from finetune_trainer.errors import DivergedError
from finetune_trainer.reporting.recorder import short

NAMED = 5


@dataclass(frozen=True)
class Decisive:
    """The metric that decides, and the rows that it is measured on."""

    part: str
    """eval or test."""
    metric: str

    @classmethod
    def of(cls, config: CombineConfig) -> "Decisive":
        """bestMetric, on the validation rows where there are some."""
        validated = config.dataset.validation is not None or config.dataset.split is not None
        return cls("eval" if validated else "test", plain(config.best_metric))

    @property
    def name(self) -> str:
        """As metrics are named."""
        return f"{self.part}_{self.metric}"

    @property
    def sign(self) -> int:
        """1 where higher is better, -1 where lower is."""
        return 1 if direction(self.metric) is Direction.MAXIMIZE else -1

    def improves(self, value: float | None, best: float | None) -> bool:
        """Whether a value is better than another; equal is not better, and what is not finite never is."""
        return value is not None and improves(self.metric, value, best)

    def best(self, values: list[float | None]) -> list[int]:
        """Places of the finite values, the best first; equal ones in their order."""
        finite = [(-self.sign * value, place) for place, value in enumerate(values) if value is not None]
        return [place for _, place in sorted(finite)]


def compare(
    config: CombineConfig,
    decisive: Decisive,
    values: list[float | None],
    combined: float | None,
    used: int,
    interval: list[float] | None,
) -> CombinationStatus:
    """The figures, of each member's value and the combination's; None stands for what is not finite.

    Raises DivergedError where nothing that could be published has a value.
    """
    finite, always = [value for value in values if value is not None], config.publish is Publish.ALWAYS
    if combined is None and (always or not finite):
        raise not_finite(decisive)
    best = max(finite, key=lambda value: decisive.sign * value, default=None)
    combination = always or decisive.improves(combined, best)
    gain = None if combined is None or best is None else decisive.sign * (combined - best) + 0.0
    return CombinationStatus(
        combine=config.combine.value,
        metric=decisive.name,
        members=len(values),
        used=used,
        mean_member=short(fmean(finite)) if finite else None,
        best_member=best,
        combined=combined,
        gain=short(gain),
        gain_interval=interval,
        published=Published.COMBINATION if combination else Published.BEST_MEMBER,
    )


def not_finite(decisive: Decisive) -> DivergedError:
    """The end where nothing that could be published has a value."""
    return DivergedError(
        f"{decisive.name} is not a finite number, so nothing is known of the combination and nothing is published. If"
        " outputs are NaN or infinite, the log names the rows: look at them, or set precision: Float32. If not, choose"
        " another bestMetric, or give more rows",
        FaultPlace(field="bestMetric"),
    )


def sentence(found: CombinationStatus) -> str:
    """The figures in one sentence, without its full stop."""
    of = f"{found.used} of {found.members}" if found.used < found.members else f"{found.members}"
    named = {"best member": found.best_member, "mean member": found.mean_member}
    members = "".join(f", {name} {_number(value)}" for name, value in named.items())
    return (
        f"{found.combine} of {of} members: {found.metric} {_number(found.combined)}{members}{_gained(found)}"
        f"{_alone(found)}"
    )


def missing(config: CombineConfig, most: int = NAMED) -> str:
    """Which members failed, as a sentence without its full stop; empty if none did."""
    failed, total = config.missing, len(config.missing) + len(config.members)
    if not failed:
        return ""
    more = f" and {len(failed) - most} more" if len(failed) > most else ""
    verb = "is not" if len(failed) == 1 else "are not"
    return f"{len(failed)} of {total} members failed and {verb} part of it: {', '.join(failed[:most])}{more}"


def _alone(found: CombinationStatus) -> str:
    alone = found.combine == CombineRule.GREEDY_SOUP and found.used == 1
    return "; only the best member stayed in the soup" if alone else ""


def _gained(found: CombinationStatus) -> str:
    if found.gain is None:
        return ""
    gain = f"; gain over the best member {_number(found.gain)}"
    if found.gain_interval is None:
        return gain
    low, high = found.gain_interval
    uncertain = found.gain != 0 and low <= 0 <= high
    chance = f"; the {'gain' if found.gain > 0 else 'difference'} may be chance" if uncertain else ""
    return f"{gain} (95 % interval {_number(low)} to {_number(high)}){chance}"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"
