"""The file that a device is started with."""

from collections.abc import Mapping
from typing import Any

from django.conf import settings

from devices.models import Device
from devices.services.provisioning.registration import IssuedCredentials


def device_config(slug: str, device: Device, issued: IssuedCredentials) -> Mapping[str, Any]:
    """The JSON file that `gwanje_device.py` is started with."""
    return {
        "uuid": str(device.uuid),
        "secret": issued.secret,
        "kid": str(issued.key_version),
        "signature": "v2",
        "host": settings.MQTT_HOST,
        "port": settings.MQTT_PORT,
        "mqtt_password": issued.mqtt_password,
        "tenant": slug,
        **({"cpu_serial": device.cpu_serial} if device.cpu_serial else {}),
        **({"hardware_version": device.hardware_model.version} if device.hardware_model else {}),
        "components": [component.key for component in device.components.all() if component.attached],
    }
