"""Claims of preregistered devices, and the bootstrap of their credentials."""

from rest_framework import serializers

from tenants.api.serializers.base import StrictSerializer


class ClaimSerializer(StrictSerializer):
    """A board to claim: what stands on its label."""

    serial = serializers.CharField(max_length=64)
    code = serializers.CharField(max_length=64, help_text="16 letters and digits; case and hyphens do not matter.")
    name = serializers.CharField(max_length=120, required=False, help_text="The device's; else the board's.")


class FetchSerializer(StrictSerializer):
    """Who asks for credentials."""

    token = serializers.CharField(max_length=100, help_text="The fetch token that the card was written with.")
    attempt = serializers.CharField(
        min_length=16,
        max_length=128,
        help_text="Random text that the device keeps before it asks. With the same it hears a lost answer again.",
    )


class FetchedSerializer(serializers.Serializer):
    """A device's credentials, or (202) why there are none yet."""

    status = serializers.ChoiceField(choices=("issued", "not_claimed", "suspended", "inactive"))
    retry_after = serializers.IntegerField(required=False, help_text="Seconds to wait before it asks again.")
    credentials = serializers.DictField(
        required=False, help_text="What `gwanje_device.py` has in its configuration file: uuid, secret, kid, host, …"
    )
