"""Dialects: what devices of many makers publish, as values, times and metrics; facts of their documentation."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.bridge.decoders import UnreadablePayload, read_ruuvi, read_senml
from devices.bridge.dialects import Dialects, available
from devices.domain import paths
from devices.services.metadata.unit_catalogue import UNITS

NOW = 1_800_000_000.0
Row = tuple[str, str, Any, str, dict[str, Any], dict[str, str]]
# device, topic, payload, publisher, values, units of the proposed metrics by their key
ROWS: list[Row] = [
    (
        "Tasmota DHT22", "tele/greenhouse/SENSOR",
        {"Time": "2026-01-01T00:00:00", "AM2301": {"Temperature": 22.6, "Humidity": 32.4}, "TempUnit": "C"},
        "tasmota:greenhouse", {"AM2301": {"Temperature": 22.6, "Humidity": 32.4}, "TempUnit": "C"},
        {"am2301_temperature": "°C", "am2301_humidity": "%"},
    ),
    (
        "Tasmota plug", "tele/plug/SENSOR",
        {"Time": "x", "ENERGY": {"Total": 3.1, "Power": 40, "Factor": 0.5, "Voltage": 230, "Current": 0.2}},
        "tasmota:plug", {"ENERGY": {"Total": 3.1, "Power": 40, "Factor": 0.5, "Voltage": 230, "Current": 0.2}},
        {"energy_total": "kWh", "energy_power": "W", "energy_factor": "", "energy_voltage": "V", "energy_current": "A"},
    ),
    (
        "Tasmota switch", "tele/plug/STATE", {"Time": "x", "POWER": "OFF", "Wifi": {"RSSI": 66, "SSId": "home"}},
        "tasmota:plug", {"POWER": "OFF", "Wifi": {"RSSI": 66, "SSId": "home"}}, {"power": "", "wifi_rssi": "%"},
    ),
    (
        "Shelly Plug S", "shellies/shellyplug-s-041/relay/0/power", "12.43",
        "shelly1:shellyplug-s-041", {"relay.0.power": 12.43}, {"relay_0_power": "W"},
    ),
    ("Shelly 1", "shellies/shelly1-1/relay/0", "on", "shelly1:shelly1-1", {"relay.0": "on"}, {"relay_0": ""}),
    (
        "Shelly H&T", "shellies/shellyht-1/sensor/humidity", "55.5",
        "shelly1:shellyht-1", {"sensor.humidity": 55.5}, {"sensor_humidity": "%"},
    ),
    (
        "Shelly Plus 1PM", "any/prefix/events/rpc".replace("any/prefix", "shellyplus1pm-a8"),
        {"src": "shellyplus1pm-a8", "method": "NotifyStatus",
         "params": {"ts": 1800000000.5, "switch:0": {"id": 0, "apower": 12.5, "aenergy": {"total": 4.5}}}},
        "shelly2:shellyplus1pm-a8", {"switch:0": {"id": 0, "apower": 12.5, "aenergy": {"total": 4.5}}},
        {"switch_0_apower": "W", "switch_0_aenergy_total": "Wh"},
    ),
    (
        "Aqara WSDCGQ11LM", "zigbee2mqtt/bedroom",
        {"battery": 100, "humidity": 51.2, "pressure": 1003.1, "temperature": 21.4, "voltage": 3005, "linkquality": 60,
         "last_seen": "2026-01-01"},
        "zigbee2mqtt:bedroom",
        {"battery": 100, "humidity": 51.2, "pressure": 1003.1, "temperature": 21.4, "voltage": 3005, "linkquality": 60},
        {"battery": "%", "humidity": "%", "pressure": "hPa", "temperature": "°C", "voltage": "mV", "linkquality": ""},
    ),
    (
        "IKEA TRADFRI plug", "zigbee2mqtt/lamp", {"state": "ON", "linkquality": 60},
        "zigbee2mqtt:lamp", {"state": "ON", "linkquality": 60}, {"state": "", "linkquality": ""},
    ),
    (
        "ESPHome DHT", "attic/sensor/attic_temperature/state", "19.25",
        "esphome:attic", {"attic_temperature": 19.25}, {"attic_temperature": "°C"},
    ),
    ("ESPHome switch", "attic/switch/fan/state", "OFF", "esphome:attic", {"fan": "OFF"}, {"fan": ""}),
    (
        "RuuviTag", "ruuvi/AA:BB/CB:B8:33:4C:88:4F",
        {"gw_mac": "AA:BB", "rssi": -61, "data": "0201061BFF99040512FC5394C37C0004FFFC040CAC364200CDCBB8334C884F"},
        "ruuvi:CB:B8:33:4C:88:4F",
        {"temperature": 24.3, "humidity": 53.49, "pressure": 100044, "acceleration_x": 0.004, "acceleration_y": -0.004,
         "acceleration_z": 1.036, "battery_voltage": 2.977, "tx_power": 4, "movement_counter": 66, "sequence": 205,
         "rssi": -61},
        {"temperature": "°C", "humidity": "%", "pressure": "Pa", "acceleration_x": "", "acceleration_y": "",
         "acceleration_z": "", "battery_voltage": "V", "movement_counter": "", "sequence": ""},
    ),
    (
        "Xiaomi LYWSD03MMC by BLE", "home/OMG/BTtoMQTT/A4C138AABBCC",
        {"id": "A4:C1:38:AA:BB:CC", "name": "LYWSD03MMC", "rssi": -62, "tempc": 21.3, "hum": 50.5, "batt": 80},
        "openmqttgateway:A4C138AABBCC", {"rssi": -62, "tempc": 21.3, "hum": 50.5, "batt": 80},
        {"rssi": "", "tempc": "°C", "hum": "%", "batt": "%"},
    ),
    (
        "Acurite tower by 433 MHz", "home/OMG/RTL_433toMQTT/Acurite-Tower/A/123",
        {"model": "Acurite-Tower", "id": 123, "channel": "A", "temperature_C": 4.5, "humidity": 77},
        "openmqttgateway:123", {"temperature_C": 4.5, "humidity": 77}, {"temperature_c": "°C", "humidity": "%"},
    ),
    (
        "SenML pack", "senml/weather",
        [{"bn": "urn:dev:", "bu": "Cel", "n": "t", "v": 23.1}, {"n": "h", "u": "%RH", "v": 40}],
        "senml:weather", {"urn:dev:t": 23.1, "urn:dev:h": 40}, {"urn_dev_t": "°C", "urn_dev_h": "%"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("topic", "payload", "publisher", "values", "units"), [row[1:] for row in ROWS],
                         ids=[row[0] for row in ROWS])  # fmt: skip
def test_what_a_device_says(topic: str, payload: Any, publisher: str, values: Any, units: dict[str, str]) -> None:
    dialects = Dialects()
    raw = payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()
    (report,) = dialects.read(topic, raw, NOW)
    assert (report.name, report.values) == (publisher, values)
    metrics = {metric["key"]: metric for metric in dialects.contract(report)["metrics"]}
    assert {key: metric.get("unit", "") for key, metric in metrics.items()} == units
    for metric in metrics.values():
        found = paths.find({"value": values}, paths.parse(metric["path"]))
        kind = {"number": (int, float), "boolean": (bool, str), "text": (str,)}[metric["value_type"]]
        assert isinstance(found, kind), metric


@pytest.mark.parametrize(
    "topic",
    ["shellies/x/announce", "shellies/x/online", "ruuvi/AA/gw_status", "zigbee2mqtt/bridge/state", "tele/x/LWT",
     "zigbee2mqtt/lamp/availability", "stat/x/POWER", "other/topic", "x/status"],
)  # fmt: skip
def test_other_topics_say_nothing(topic: str) -> None:
    assert Dialects().read(topic, b'{"data": "x"}', NOW) == []


def test_every_dialect_has_rules_and_units_that_the_platform_knows() -> None:
    known = {unit[0] for unit in UNITS} | {unit[1] for unit in UNITS}
    assert len(available()) == 18
    for name, file in Dialects().files.items():
        assert file["rules"], name
        assert {metric["unit"] for metric in file["metrics"] if "unit" in metric} <= known, name


def test_a_discovered_device_is_read_from_its_own_topics() -> None:
    dialects = Dialects()
    device = {"ids": ["meter-7"], "name": "Meter"}
    configs = {
        "homeassistant/sensor/meter/power/config": {
            "~": "meters/7", "stat_t": "~/state", "val_tpl": "{{ value_json.power.total | float }}",
            "unit_of_meas": "W", "obj_id": "power", "dev": device,
        },
        "homeassistant/binary_sensor/meter/door/config": {
            "state_topic": "meters/7/door", "payload_on": "open", "payload_off": "shut", "object_id": "door",
            "device": device,
        },
        "homeassistant/sensor/meter/odd/config": {
            "state_topic": "meters/7/odd", "value_template": "{% if value > 3 %}1{% endif %}", "device": device,
        },
    }  # fmt: skip
    for topic, config in configs.items():
        assert dialects.read(topic, json.dumps(config).encode(), NOW) == []
    (report,) = dialects.read("meters/7/state", b'{"power": {"total": 512.5}}', NOW)
    assert (report.name, report.values) == ("homeassistant:meter-7", {"power": 512.5})
    assert dialects.contract(report)["metrics"] == [
        {"key": "power", "path": "/value/power", "value_type": "number", "unit": "W"}
    ]
    assert dialects.read("meters/7/door", b"open", NOW)[0].values == {"door": True}
    assert list(dialects.discovery.not_understood) == ["homeassistant/sensor/meter/odd/config"]
    assert {"meters/7/state", "meters/7/door"} <= set(dialects.filters())
    dialects.read("homeassistant/sensor/meter/power/config", b"", NOW)
    assert dialects.read("meters/7/state", b'{"power": {"total": 1}}', NOW) == []


def test_a_discovered_topic_of_another_dialect_is_read_once() -> None:
    dialects = Dialects()
    config = {"state_topic": "zigbee2mqtt/lamp", "value_template": "{{ value_json.power }}", "unique_id": "lamp_power"}
    dialects.read("homeassistant/sensor/lamp/power/config", json.dumps(config).encode(), NOW)
    assert [report.name for report in dialects.read("zigbee2mqtt/lamp", b'{"power": 3}', NOW)] == ["zigbee2mqtt:lamp"]


def test_a_senml_pack_has_times() -> None:
    pack = [{"bn": "x:", "bt": 1.8e9, "n": "t", "v": 1, "t": -60}, {"n": "t", "v": 2}, {"n": "on", "vb": True}]
    assert read_senml(json.dumps(pack).encode(), NOW) == [
        ({"x:t": 1}, 1.8e9 - 60), ({"x:t": 2, "x:on": True}, 1.8e9),
    ]  # fmt: skip
    assert read_senml(b'[{"n": "t", "v": 1, "t": -5}]', NOW) == [({"t": 1}, NOW - 5)]
    assert read_senml(b'[{"bv": 20, "n": "t", "v": 1.5}]', NOW) == [({"t": 21.5}, NOW)]


def test_a_ruuvi_tag_without_a_sensor_leaves_values_out() -> None:
    data = "FF9904" + "058000FFFFFFFF800080008000FFFFFFFFFFFFFFFFFFFFFF"
    assert read_ruuvi({"data": data}) == {}


@given(st.binary(max_size=60), st.sampled_from([row[1] for row in ROWS] + ["homeassistant/sensor/x/config"]))
def test_any_payload_is_read_or_refused(payload: bytes, topic: str) -> None:
    dialects = Dialects()
    with suppress(UnreadablePayload):
        for report in dialects.read(topic, payload, NOW):
            json.dumps(dialects.contract(report))
