"""Amounts of memory: as a person reads them, and as a pod's limit is written. Pure."""

from decimal import Decimal

from finetune_api.resources import amount_of

_MEBIBYTE = 2**20
_GIBIBYTE = 2**30
_ROOM = 1.5


def readable(size: int) -> str:
    """In the unit that fits."""
    return f"{size / _GIBIBYTE:.1f} GiB" if size >= _GIBIBYTE else f"{size / _MEBIBYTE:.0f} MiB"


def bytes_of(quantity: str | None) -> int | None:
    """Of a quantity such as 512Mi; None where there is none, or another text."""
    try:
        return int(amount_of(quantity)) if quantity else None
    except (ValueError, ArithmeticError, KeyError):
        return None


def enough(*known: int | None) -> str | None:
    """A limit with half as much room again as the largest of these needs; None if none is known."""
    most = max((size for size in known if size), default=None)
    if most is None:
        return None
    wanted = Decimal(most) * Decimal(_ROOM)
    unit, name = (_GIBIBYTE, "Gi") if wanted >= 4 * _GIBIBYTE else (64 * _MEBIBYTE, "Mi")
    count = int(-(-wanted // unit))
    return f"{count}{name}" if name == "Gi" else f"{count * 64}{name}"
