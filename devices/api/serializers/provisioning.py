"""Claims of preregistered devices, and the bootstrap of their credentials."""

from rest_framework import serializers

from tenants.api.serializers.base import StrictSerializer


class ClaimSerializer(StrictSerializer):
    """A claim of a preregistered device, with the serial number and the code of its label."""

    serial = serializers.CharField(max_length=64)
    code = serializers.CharField(max_length=64, help_text="16 letters and digits; case and hyphens do not matter.")
    name = serializers.CharField(
        max_length=120,
        required=False,
        help_text="Name of the device; default: the name or serial number of its preregistration.",
    )


class FetchSerializer(StrictSerializer):
    """A request for credentials."""

    token = serializers.CharField(max_length=100, help_text="Fetch token of the device's configuration file.")
    attempt = serializers.CharField(
        min_length=16,
        max_length=128,
        help_text="Random text that the device stores. A request with the same attempt gets the same response again.",
    )


class FetchedSerializer(serializers.Serializer):
    """The credentials of a device, or with 202 the reason for which they are not available yet."""

    status = serializers.ChoiceField(choices=("issued", "not_claimed", "suspended", "inactive"))
    retry_after = serializers.IntegerField(required=False, help_text="Seconds until the next request.")
    credentials = serializers.DictField(
        required=False, help_text="Members of the configuration file of `gwanje_device.py`: uuid, secret, kid, host, …"
    )
