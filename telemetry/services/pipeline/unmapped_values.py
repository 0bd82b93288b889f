"""The values in a message without a metric: kept under their path's name, without a unit, or refused. Pure.

The values kept of one message are bounded here; a component's series are bounded by `storage.unmapped_series`.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from devices.domain.layout import EXACT, GREATEST, Tree
from devices.domain.paths import Path, format_path, series_name
from devices.domain.specs import QUARANTINE, ComponentSpec

from . import form
from .results import Measurement, Refusal, Value, quote

# Bounds of one message, one array, one text, and of the nesting of objects.
MAX_VALUES = 64
MAX_ITEMS = 16
MAX_LETTERS = 1000
MAX_DEPTH = 8

_NAMED = 5
_NOTHING: Tree = {}
# Stands for values beyond a bound.
CUT = object()


def collect(message: dict[str, Any], component: ComponentSpec, source: bytes = b"") -> tuple[list[Measurement], bool]:
    """Return (the values without a metric, whether the message has more than are kept).

    Raises Refusal (`wrong_type`) where the component type rejects such values. `source` is the JSON text of the
    message, as in `normalize`.
    """
    found: list[Measurement] = []
    is_cut = False
    for path, raw in leaves(message, component.layout.tree, ()):
        if component.unmapped == QUARANTINE:
            raise _not_registered(message, component)
        value = None if raw is CUT else _storable(raw, source, path)
        if value is None or len(found) == MAX_VALUES:
            is_cut = True
            if len(found) == MAX_VALUES:
                break
            continue
        name = series_name(path, component.layout.keys)
        found.append(Measurement(name, value, "", _TYPES[value.__class__]))
    return found, is_cut


_TYPES = {float: "number", bool: "boolean", str: "text"}


def leaves(value: Any, known: Tree, path: Path) -> Iterator[tuple[Path, Any]]:
    """Yield (path, value) of each unknown value; an array's items by their index. `CUT` stands for more."""
    if len(path) >= MAX_DEPTH:
        yield path, CUT
    elif value.__class__ is dict:
        for token, below in value.items():
            covered = known.get(token, _NOTHING)
            if covered is not None:
                yield from _leaf_or_leaves(below, covered, (*path, token))
    else:
        left = MAX_ITEMS
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


def _storable(raw: Any, source: bytes, path: Path) -> Value | None:
    """Return the value as it is stored, None where it cannot be: a whole number that is not equal to any float, too."""
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str):
        return raw if len(raw) <= MAX_LETTERS and "\x00" not in raw else None
    if -EXACT <= raw <= EXACT:
        return float(raw)
    raw = form.exact_number(raw, source, path)
    return float(raw) if -GREATEST <= raw <= GREATEST and float(raw) == raw else None


def _not_registered(message: dict[str, Any], component: ComponentSpec) -> Refusal:
    found = [format_path(path) for path, _ in islice(leaves(message, component.layout.tree, ()), _NAMED + 1)]
    named = ", ".join(quote(name, 40) for name in found[:_NAMED])
    return Refusal(
        "wrong_type",
        f"The component type {component.type_key} accepts only registered values, and the message has others: {named}"
        f"{' …' if len(found) > _NAMED else ''}. Add metrics for them, or let the type keep or ignore such values.",
    )
