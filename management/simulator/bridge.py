"""One connection that publishes for many devices, for load without as many connections."""

from collections.abc import Sequence

from management.device_client.gwanje_device import GwanjeDevice, Link, Outbox

WINDOW = 500  # unacknowledged messages at once
BUFFER_LIMIT = 100_000  # messages, in memory


class BridgeLink(Link):
    """A connection with the bridge account. It has no will: its end proves nothing about its devices."""

    def __init__(
        self,
        username: str,
        password: str,
        host: str,
        port: int,
        devices: Sequence[GwanjeDevice],
        reconnect_delay: tuple[float, float],
    ) -> None:
        super().__init__(
            username,
            password,
            host,
            port,
            outbox=Outbox(limit=BUFFER_LIMIT),
            window=WINDOW,
            reconnect_delay=reconnect_delay,
        )
        self.devices = devices

    def on_connected(self) -> None:
        """Publish a birth, with a new session, for each device."""
        for device in self.devices:
            device.will()  # the will is not registered, but composing it begins the session
            self.publish_now(*device.birth())

    def goodbyes(self) -> list[tuple[str, bytes]]:
        """Return the OFFLINE messages of all devices."""
        return [goodbye for device in self.devices for goodbye in device.goodbyes()]
