"""The tables of a tenant's export, and the excluded tables with the reason.

A test fails when a model of the tenants' schemas is in neither list.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from django.apps import apps
from django.db.models import Model

from devices import models as devices
from telemetry import models as telemetry

ROWS_PER_CHUNK = 2000
# Those with payloads of up to 64 KiB: a piece stays within some megabytes.
_WIDE_ROWS_PER_CHUNK = 100


@dataclass(frozen=True, slots=True)
class ExportedTable:
    """A model that is exported as it is, row by row in the order of its key, without some columns."""

    model: type[Model]
    excluded: frozenset[str] = field(default_factory=frozenset)
    rows: int = ROWS_PER_CHUNK  # in a piece

    @property
    def name(self) -> str:
        """Return the file's name without its extension."""
        return self.model._meta.db_table.replace("_", ".", 1)

    @property
    def columns(self) -> list[Any]:
        """Return the columns in the order of the model."""
        return [one for one in self.model._meta.concrete_fields if one.column and one.name not in self.excluded]

    @property
    def key(self) -> list[str]:
        """Return the columns of the primary key."""
        pk: Any = self.model._meta.pk
        names = getattr(pk, "field_names", None) or [pk.name]
        fields: list[Any] = [self.model._meta.get_field(name) for name in names]
        return [one.column for one in fields]


READINGS = "telemetry.readings"
TENANT = "tenant"

TABLES: tuple[ExportedTable, ...] = (
    ExportedTable(devices.Unit),
    ExportedTable(devices.HardwareModel),
    ExportedTable(devices.HardwareModel.allowed_component_types.through),
    ExportedTable(devices.ComponentType),
    ExportedTable(devices.Metric),
    ExportedTable(devices.Place),
    ExportedTable(devices.Device),
    ExportedTable(devices.Component),
    ExportedTable(devices.DeviceCredential),
    ExportedTable(devices.DeviceStatus),
    ExportedTable(devices.DeviceContact),
    ExportedTable(devices.DeviceOmissions),
    ExportedTable(devices.StatusChange),
    ExportedTable(devices.IgnoredWill),
    ExportedTable(devices.MaintenanceWindow),
    ExportedTable(devices.WaitingPublisher),
    ExportedTable(devices.PresenceSettings),
    ExportedTable(devices.RotationCampaign),
    ExportedTable(devices.RotationMember),
    ExportedTable(devices.DeviceImport, frozenset({"rows", "namespace"}), _WIDE_ROWS_PER_CHUNK),
    ExportedTable(devices.ApiKey, frozenset({"digest"})),
    ExportedTable(devices.AuditEntry),
    ExportedTable(telemetry.Series),
    ExportedTable(telemetry.Message, rows=_WIDE_ROWS_PER_CHUNK),
    ExportedTable(telemetry.DeviceSequence),
    ExportedTable(telemetry.Quarantined, rows=_WIDE_ROWS_PER_CHUNK),
    ExportedTable(telemetry.SuppressedMessages),
    ExportedTable(telemetry.Replay, rows=_WIDE_ROWS_PER_CHUNK),
    ExportedTable(telemetry.LegacyImport, frozenset({"digest"})),
    ExportedTable(telemetry.IngestTotals),
    ExportedTable(telemetry.LimitHit),
    ExportedTable(telemetry.RetentionSettings),
    ExportedTable(telemetry.ReadingHour),
    ExportedTable(telemetry.ReadingDay),
    # Of a higher app, which this one does not import.
    ExportedTable(apps.get_model("alarms", "AlarmRule")),
    ExportedTable(apps.get_model("alarms", "AlarmRuleVersion")),
    ExportedTable(apps.get_model("alarms", "AlarmEpisode")),
    ExportedTable(apps.get_model("alarms", "AlarmTransition"), frozenset({"after"})),
    ExportedTable(apps.get_model("alarms", "AlarmSeries"), frozenset({"state"})),
    ExportedTable(apps.get_model("alarms", "EpisodeEnd")),
    ExportedTable(apps.get_model("alarms", "ListenerOutage")),
)

EXCLUDED: dict[type[Model], str] = {
    telemetry.Reading: f"Its rows are in {READINGS}.ndjson, with the names and units of their series.",
    telemetry.PackedDay: f"Packed readings; they are in {READINGS}.ndjson, unpacked.",
    telemetry.ChangeBatch: "The order in which messages and readings were stored; they are in their own files.",
    telemetry.ChangeGeneration: "Where the order of storing begins; nothing that was measured.",
    telemetry.Latest: "A copy of the newest reading of each series.",
    telemetry.RollupState: "How far the platform's background work has come; nothing that was measured.",
    telemetry.LateHour: "Which hours the platform sums up anew; nothing that was measured.",
    telemetry.RepackDay: "Which days the platform packs anew; nothing that was measured.",
    apps.get_model("alarms", "AlarmProgress"): "How far readings were evaluated; nothing that happened.",
    devices.BrokerPassword: "What passwords are checked with: a secret.",
    devices.StoredAnswer: "Answers to requests of the last 24 hours, in case they are repeated.",
    devices.ObjectChange: "Which objects programs must read again; nothing that happened.",
    devices.StatusFeed: "How far notifications were numbered; nothing that happened.",
}


def tenant_models() -> Iterator[type[Model]]:
    """Yield every model whose table is in the tenants' schemas, including many-to-many relations."""
    for label in ("devices", "telemetry", "alarms"):
        for model in apps.get_app_config(label).get_models(include_auto_created=True):
            if model._meta.managed and not model._meta.proxy:
                yield model
