"""Home Assistant's discovery: configurations in which a device states its topics, and where its values are. Pure.

Of a template only the usual one is understood: a path into the payload, with filters behind it that are ignored.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import decoders

_MAX_ENTITIES = 2000
# Abbreviations that configurations may use.
_LONG = {
    "stat_t": "state_topic",
    "val_tpl": "value_template",
    "unit_of_meas": "unit_of_measurement",
    "dev": "device",
    "ids": "identifiers",
    "uniq_id": "unique_id",
    "obj_id": "object_id",
    "pl_on": "payload_on",
    "pl_off": "payload_off",
}
_TEMPLATE = re.compile(r"\{\{\s*(value_json|value)((?:\.\w+|\[\s*(?:'[^']*'|\"[^\"]*\"|\d+)\s*\])*)\s*(?:\|[^}]*)?\}\}")
_STEP = re.compile(r"\.(\w+)|\[\s*(?:'([^']*)'|\"([^\"]*)\"|(\d+))\s*\]")


@dataclass(frozen=True)
class Entity:
    """One value of a device: where it is in the payload of a topic."""

    publisher: str
    name: str
    path: tuple[str, ...] | None  # None: the payload itself
    unit: str
    words: tuple[str, str] | None = None  # for true and false


class Discovery:
    """The entities that devices have announced, by topic."""

    def __init__(self) -> None:
        self.topics: dict[str, dict[str, Entity]] = {}  # state topic → configuration topic → entity
        self.not_understood: dict[str, str] = {}  # configuration topic → why
        self.changed = False

    def learn(self, config: Mapping[str, Any], topic: str, is_known: Callable[[str], bool]) -> None:
        """Add, change or (by an empty configuration) remove an entity. `is_known`: whether a dialect has the topic."""
        for entities in self.topics.values():
            entities.pop(topic, None)
        self.not_understood.pop(topic, None)
        config = {_LONG.get(name, name): value for name, value in config.items()}
        base, state = str(config.get("~", "")), str(config.get("state_topic", ""))
        state = re.sub(r"^~|~$", base.replace("\\", r"\\"), state)
        if not state or is_known(state):
            return
        device = config.get("device")
        device = {_LONG.get(name, name): value for name, value in device.items()} if isinstance(device, dict) else {}
        identifiers = device.get("identifiers") or config.get("unique_id") or topic.split("/")[-2]
        publisher = str(identifiers[0] if isinstance(identifiers, list) else identifiers)
        path = self._path(str(config.get("value_template") or "{{ value }}"), topic)
        if path is False or sum(map(len, self.topics.values())) >= _MAX_ENTITIES:
            return
        words = (str(config.get("payload_on", "ON")), str(config.get("payload_off", "OFF")))
        is_switch = "/binary_sensor/" in topic or "/switch/" in topic
        entity = Entity(
            publisher,
            str(config.get("object_id") or topic.split("/")[-2]),
            path,
            str(config.get("unit_of_measurement") or ""),
            words if is_switch else None,
        )
        self.changed = self.changed or state not in self.topics
        self.topics.setdefault(state, {})[topic] = entity

    def _path(self, template: str, topic: str) -> Any:
        match = _TEMPLATE.fullmatch(template.strip())
        if match is None:
            self.not_understood[topic] = f"the template {template[:200]!r} is not a path"
            return False
        if match[1] == "value":
            return None
        return tuple(next(part for part in step if part) for step in _STEP.findall(match[2]))

    def read(self, topic: str, payload: bytes) -> dict[str, dict[str, Any]]:
        """Return the values on a topic by publisher. Raises UnreadablePayload."""
        found: dict[str, dict[str, Any]] = {}
        for entity in self.topics.get(topic, {}).values():
            value: Any = decoders.read_scalar(payload)
            if entity.path is not None:
                value = decoders.read_json(payload)
                for name in entity.path:
                    if isinstance(value, list):
                        value = value[int(name)] if name.isdigit() and int(name) < len(value) else None
                    else:
                        value = value.get(name) if isinstance(value, dict) else None
            if entity.words is not None and str(value) in entity.words:
                value = str(value) == entity.words[0]
            if value is not None:
                found.setdefault(entity.publisher, {})[entity.name] = value
        return found

    def units_of(self, publisher: str) -> dict[str, str]:
        """Return the units of a publisher's values."""
        return {
            entity.name: entity.unit
            for entities in self.topics.values()
            for entity in entities.values()
            if entity.publisher == publisher and entity.unit
        }
