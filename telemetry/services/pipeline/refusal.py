"""How the pure stages say no."""


class Refused(Exception):
    """The message is quarantined. `reason` is one of `telemetry.models.Reason`; `detail` says what to mend.

    `limit` is the name of the tenant's limit that it is beyond, where it is beyond one.
    """

    def __init__(self, reason: str, detail: str, *, limit: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.limit = limit


def quote(value: object, limit: int = 80) -> str:
    """What a message held, cut and printable, for a detail."""
    text = value if isinstance(value, str) else repr(value)
    text = text.replace("\x00", "\\0")
    return repr(text if len(text) <= limit else text[:limit] + "…")
