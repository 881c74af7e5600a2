"""Small plots: a row of numbers as the points of a line, for SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Spark", "spark"]


class Spark(NamedTuple):
    """A line in a box.

    :param line: The points of the line, as SVG has them.
    :param area: The points of the area below it.
    :param top: The number at the upper edge of the box.
    """

    line: str
    area: str
    top: float


def spark(numbers: Sequence[float | None], width: int, height: int, most: int, top: float = 1.0) -> Spark | None:
    """Return the line of some numbers, the last at the right edge; None where there are not two.

    :param most: How many numbers a full box has.
    :param top: The number at the upper edge, where none is larger.
    """
    known = [0.0 if number is None else float(number) for number in numbers[-most:]]
    if len(known) < 2:
        return None
    top = max(*known, top, 1.0)
    step, room = width / (most - 1), height - 2
    begin = width - step * (len(known) - 1)
    points = [(begin + step * place, 1 + room * (1 - number / top)) for place, number in enumerate(known)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Spark(line, f"{begin:.1f},{height} {line} {width:.1f},{height}", top)
