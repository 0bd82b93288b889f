"""The values in a message that no metric is for: kept under their path's name, without a unit, or refused. Pure.

What is kept of one message is bounded here; how many series a component may have, by `storage.unmapped`.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from devices.domain.layout import GREATEST, Tree
from devices.domain.paths import Path, format_path, series_name
from devices.domain.specs import QUARANTINE, ComponentSpec

from .measurement import Measurement, Value
from .refusal import Refused, quote

# Of one message, one array, one text; and how deep objects may be nested.
MOST_VALUES = 64
MOST_ITEMS = 16
MOST_LETTERS = 1000
MOST_DEPTH = 8

_NAMED = 5
_NOTHING: Tree = {}
# Stands for what is beyond a bound.
CUT = object()


def collect(message: dict[str, Any], component: ComponentSpec) -> tuple[list[Measurement], bool]:
    """(the values without a metric, whether there are more than are kept of one message).

    Raises Refused (`wrong_type`) where the component type takes no such values.
    """
    found: list[Measurement] = []
    is_cut = False
    for path, raw in leaves(message, component.layout.tree, ()):
        if component.unmapped == QUARANTINE:
            raise _not_registered(message, component)
        value = None if raw is CUT else _kept(raw)
        if value is None or len(found) == MOST_VALUES:
            is_cut = True
            if len(found) == MOST_VALUES:
                break
            continue
        name = series_name(path, component.layout.keys)
        found.append(Measurement(name, value, "", _TYPES[value.__class__]))
    return found, is_cut


_TYPES = {float: "number", bool: "boolean", str: "text"}


def leaves(value: Any, known: Tree, path: Path) -> Iterator[tuple[Path, Any]]:
    """(path, value) of each value that is not known; an array's items by their index. `CUT` stands for more."""
    if len(path) >= MOST_DEPTH:
        yield path, CUT
    elif value.__class__ is dict:
        for token, below in value.items():
            covered = known.get(token, _NOTHING)
            if covered is not None:
                yield from _leaf_or_leaves(below, covered, (*path, token))
    else:
        left = MOST_ITEMS
        for index, below in enumerate(value):
            covered = known.get(str(index), _NOTHING)
            if covered is None:
                continue
            if not left:
                yield path, CUT
                break
            left -= 1
            yield from _leaf_or_leaves(below, covered, (*path, str(index)))


def _leaf_or_leaves(value: Any, known: Tree, path: Path) -> Iterator[tuple[Path, Any]]:
    if value.__class__ is dict or value.__class__ is list:
        return leaves(value, known, path)
    return iter(()) if value is None else iter(((path, value),))


def _kept(raw: Any) -> Value | None:
    """The value as it is stored; None: it cannot be."""
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str):
        return raw if len(raw) <= MOST_LETTERS and "\x00" not in raw else None
    return float(raw) if -GREATEST <= raw <= GREATEST else None


def _not_registered(message: dict[str, Any], component: ComponentSpec) -> Refused:
    found = [format_path(path) for path, _ in islice(leaves(message, component.layout.tree, ()), _NAMED + 1)]
    named = ", ".join(quote(name, 40) for name in found[:_NAMED])
    return Refused(
        "wrong_type",
        f"The component type {component.type_key} takes registered values alone, and the message has others: {named}"
        f"{' …' if len(found) > _NAMED else ''}. Add metrics for them, or let the type keep or ignore such values.",
    )
