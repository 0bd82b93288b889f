"""Fewer points for the same picture: the least and the greatest of every bucket, then those that change it the most.

Pure, and in plain Python: it is only given the few thousand candidates that the database has left over (see
`telemetry.services.queries.charts`), for which loading an array library would cost more than it saves.
"""

import heapq
from bisect import bisect
from collections.abc import Sequence

Point = tuple[float, float]  # time, value
Candidate = tuple[int, Point]  # number of the bucket, point


def bucket_count(most: int) -> int:
    """Return the number of buckets of a line of at most `most` (3 or more) points: two points of each, and two ends."""
    return max(1, (most - 2) // 2)


def choose_points(candidates: Sequence[Candidate], most: int) -> list[Point]:
    """Return at most `most` of the candidates, which are in order of time and of buckets; all where there are few.

    The least and the greatest of each bucket stay; of equal ones the first. So do the last point and the first one,
    unless `most` is 3 and all four differ. What room is left goes to the points that are the farthest from the line.
    """
    points = [point for _, point in candidates]
    if len(points) <= most:
        return points
    kept = _extremes(candidates)
    for end in (len(points) - 1, 0):
        if len(kept) < most:
            kept.add(end)
    kept |= _farthest(points, sorted(kept), most - len(kept))
    return [points[number] for number in sorted(kept)]


def _extremes(candidates: Sequence[Candidate]) -> set[int]:
    """Return the numbers of the candidates that are the least or the greatest of their bucket."""
    least: dict[int, int] = {}
    greatest: dict[int, int] = {}
    for number, (bucket, (_, value)) in enumerate(candidates):
        if value < candidates[least.setdefault(bucket, number)][1][1]:
            least[bucket] = number
        if value > candidates[greatest.setdefault(bucket, number)][1][1]:
            greatest[bucket] = number
    return {*least.values(), *greatest.values()}


def _farthest(points: Sequence[Point], kept: Sequence[int], count: int) -> set[int]:
    """Return the numbers of the `count` points that span the largest triangles with the kept points around them."""
    if count <= 0:
        return set()
    chosen = set(kept)
    rest = (number for number in range(kept[0], kept[-1]) if number not in chosen)

    def triangle(number: int) -> float:
        after = bisect(kept, number)
        (x1, y1), (x, y), (x2, y2) = points[kept[after - 1]], points[number], points[kept[after]]
        return abs((x2 - x1) * (y - y1) - (x - x1) * (y2 - y1))

    return set(heapq.nlargest(count, rest, key=triangle))
