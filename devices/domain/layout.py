"""Layouts: the places of a component's metrics in its messages, arranged for a single pass over a message. Pure.

Computed when a specification is made, not per message, and shared by all devices with equal components.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from devices.domain.metric_spec import MetricSpec
from devices.domain.paths import CLAIMS, PROTOCOL_MEMBERS, Path, is_selecting

# The largest finite number: a value within these bounds is neither infinite nor NaN.
GREATEST = 1.7976931348623157e308
# Up to this, every whole number is a float.
EXACT = 2.0**53

# Token → the known tokens below it; None: a metric or a unit's name, with everything below it.
Tree = Mapping[str, "Tree | None"]


@dataclass(frozen=True, slots=True)
class MetricSlot:
    """A metric within its object. `plain`: a number that is stored as sent, within the bounds and `EXACT`.

    No named tuple: its members are read for each value, which takes twice as long there.
    """

    token: str
    metric: MetricSpec
    key: str
    unit: str
    value_type: str
    plain: bool
    low: float
    high: float


class Node(NamedTuple):
    """An object (or array) of the message with metrics: `token` within the node at the index `holder`.

    The first node is the message itself, and a node comes after its holder. `known` are the names in it that need no
    further check.
    """

    holder: int
    token: str
    known: frozenset[str]
    members: tuple[MetricSlot, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """The nodes, the same as a tree of names, the metrics' keys, and the metrics whose paths select."""

    nodes: tuple[Node, ...]
    tree: Tree
    keys: frozenset[str]
    selecting: tuple[MetricSpec, ...] = ()


def build_layout(metrics: Iterable[MetricSpec], covered: Iterable[Path] = ()) -> Layout:
    """Return the layout of a component's metrics; `covered` are further paths that are not unmapped values."""
    listed = tuple(metrics)
    selecting = tuple(metric for metric in listed if is_selecting(metric.path))
    plain = [metric for metric in listed if metric not in selecting]
    tree: dict[str, Tree | None] = dict.fromkeys(PROTOCOL_MEMBERS | CLAIMS)
    paths = [metric.path for metric in plain] + [metric.unit_path for metric in listed if metric.unit_path]
    paths.extend(covered)
    # The whole object or list in which a path selects.
    paths = [*map(_before_selection, paths), *(_before_selection(metric.path) for metric in selecting)]
    for path in filter(None, paths):
        _cover(tree, path)
    holders = sorted({path[:depth] for path in paths for depth in range(len(path))} | {()}, key=_depth)
    index = {path: number for number, path in enumerate(holders)}
    nodes = tuple(
        Node(
            holder=index[path[:-1]] if path else -1,
            token=path[-1] if path else "",
            known=_known_names(tree, path),
            members=tuple(_slot(metric) for metric in plain if metric.path[:-1] == path),
        )
        for path in holders
    )
    return Layout(nodes=nodes, tree=tree, keys=frozenset(metric.key for metric in listed), selecting=selecting)


def _before_selection(path: Path) -> Path:
    """Return the parts before the first that selects."""
    return path[: next((number for number, token in enumerate(path) if is_selecting((token,))), len(path))]


def _depth(path: Path) -> tuple[int, Path]:
    return len(path), path


def _cover(tree: dict[str, "Tree | None"], path: Path) -> None:
    """Mark the path in the tree as used."""
    for token in path[:-1]:
        below = tree.setdefault(token, {})
        if below is None:  # the whole branch belongs to a metric
            return
        assert isinstance(below, dict)  # noqa: S101 (for the type checker)
        tree = below
    tree[path[-1]] = None


def _known_names(tree: Tree, path: Path) -> frozenset[str]:
    below: Tree | None = tree
    for token in path:
        if below is None:
            return frozenset()
        below = below.get(token)
    # Members of a known object are checked in its own node.
    return frozenset(below or ())


def _slot(metric: MetricSpec) -> MetricSlot:
    as_sent = metric.conversion is None and not metric.unit_path and metric.no_values is None
    plain = metric.value_type == "number" and as_sent
    low, high = metric.minimum, metric.maximum
    return MetricSlot(
        token=metric.path[-1],
        metric=metric,
        key=metric.key,
        unit=metric.unit,
        value_type=metric.value_type,
        plain=plain,
        low=-EXACT if low is None else max(low, -EXACT),
        high=EXACT if high is None else min(high, EXACT),
    )
