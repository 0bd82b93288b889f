"""The demonstration hardware: a board, and the sensors and switches of a small greenhouse."""

from dataclasses import dataclass

from devices.models import ComponentType, HardwareModel, Metric, Unit

BOARD = ("Raspberry Pi 4 Model B", "1.4")


@dataclass(frozen=True)
class MetricDefinition:
    """A metric of a demonstration component type."""

    key: str
    path: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    words: tuple[str, str] | None = None


TYPES: dict[str, tuple[str, tuple[MetricDefinition, ...]]] = {
    "dht22": (
        "DHT22 temperature and humidity sensor",
        (
            MetricDefinition("temperature", "value.temp", "°C", -40, 80),
            MetricDefinition("humidity", "value.humidity", "%", 0, 100),
        ),
    ),
    "bmp280": (
        "BMP280 barometer",
        (
            MetricDefinition("pressure", "value.pressure", "hPa", 300, 1100),
            MetricDefinition("temperature", "value.temp", "°C", -40, 85),
        ),
    ),
    "mh-z19": ("MH-Z19 CO₂ sensor", (MetricDefinition("co2", "value.co2", "ppm", 0, 10000),)),
    "soil": ("Soil moisture probe", (MetricDefinition("moisture", "value.moisture", "%", 0, 100),)),
    "relay": ("Relay", (MetricDefinition("state", "value.state", words=("ON", "OFF")),)),
    "pump": ("Water pump", (MetricDefinition("state", "value.state", words=("ON", "OFF")),)),
}


def install_hardware() -> tuple[HardwareModel, dict[str, ComponentType]]:
    """Register the demonstration hardware in the current tenant; existing rows do not change."""
    types = {key: _install_type(key, name, metrics) for key, (name, metrics) in TYPES.items()}
    board, created = HardwareModel.objects.get_or_create(name=BOARD[0], version=BOARD[1])
    if created:
        board.allowed_component_types.set(types.values())
    return board, types


def _install_type(key: str, name: str, definitions: tuple[MetricDefinition, ...]) -> ComponentType:
    component_type, created = ComponentType.objects.get_or_create(key=key, defaults={"name": name})
    if created:
        for definition in definitions:
            _metric(component_type, definition).save()
    return component_type


def _metric(component_type: ComponentType, definition: MetricDefinition) -> Metric:
    true_value, false_value = definition.words or ("", "")
    return Metric(
        component_type=component_type,
        key=definition.key,
        path=definition.path,
        value_type=Metric.ValueType.BOOLEAN if definition.words else Metric.ValueType.NUMBER,
        unit=Unit.objects.get(symbol=definition.unit) if definition.unit else None,
        minimum=definition.minimum,
        maximum=definition.maximum,
        true_value=true_value,
        false_value=false_value,
    )
