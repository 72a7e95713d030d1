"""Packs several documents into one sequence without attention between them. Pure."""

from collections.abc import Sequence


def pack(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Documents by sequence of at most `width` tokens: best fit, the longest first (Johnson 1973).

    At most 11/9 of the fewest sequences possible, plus one.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for document in sorted(range(len(lengths)), key=lambda document: (-lengths[document], document)):
        length = lengths[document]
        fitting = [row for row, left in enumerate(room) if left >= length]
        if not fitting:
            rows.append([document])
            room.append(width - length)
            continue
        row = min(fitting, key=lambda row: (room[row], row))
        rows[row].append(document)
        room[row] -= length
    return rows
