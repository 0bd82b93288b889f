"""Fewer points for the same picture: largest triangle three buckets (Steinarsson, 2013).

Pure, and in plain Python: it is only ever given the few thousand points that the database has left over (see
`telemetry.services.queries.charts`), for which loading an array library would cost more than it saves.
"""

from collections.abc import Sequence

Point = tuple[float, float]


def lttb(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` (3 or more) of the points (time, value), which are in order of time; the first and the last stay.

    Between them each of equally large groups of points gives the one that spans the largest triangle with the point
    chosen before it and the mean of the group after it.
    """
    if len(points) <= most:
        return list(points)
    size = (len(points) - 2) / (most - 2)
    # Where each group between the first and the last point begins; the last point is a group of its own.
    begins = [1 + int(number * size) for number in range(most - 2)] + [len(points) - 1, len(points)]
    chosen = [points[0]]
    for begin, end, following in zip(begins, begins[1:], begins[2:], strict=False):
        mean_x, mean_y = _mean(points[end:following])
        x, y = chosen[-1]
        width, height = x - mean_x, mean_y - y
        chosen.append(max(points[begin:end], key=lambda p: abs(width * (p[1] - y) - (x - p[0]) * height)))
    return [*chosen, points[-1]]


def _mean(group: Sequence[Point]) -> Point:
    return sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)
