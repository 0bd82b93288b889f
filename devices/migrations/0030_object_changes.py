from django.db import migrations, models

# Names are qualified by the table's schema: a listener writes without a search path.
_FUNCTIONS = """
CREATE FUNCTION devices_note_change() RETURNS trigger LANGUAGE plpgsql AS $function$
DECLARE
    keys text[];
BEGIN
    IF TG_OP <> 'INSERT' THEN
        keys := keys || (to_jsonb(OLD) ->> TG_ARGV[1]);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        keys := keys || (to_jsonb(NEW) ->> TG_ARGV[1]);
    END IF;
    EXECUTE format(
        'INSERT INTO %I.devices_objectchange (kind, key, recorded_at, mark)'
        ' SELECT $1, key, now(), (random() * 9e15)::bigint FROM (SELECT DISTINCT unnest($2) AS key) AS changed',
        TG_TABLE_SCHEMA
    ) USING TG_ARGV[0], keys;
    RETURN NULL;
END
$function$;
CREATE FUNCTION devices_note_dependents() RETURNS trigger LANGUAGE plpgsql AS $function$
DECLARE
    statement text := format(
        'INSERT INTO %1$I.devices_objectchange (kind, key, recorded_at, mark)'
        ' SELECT kind, key, now(), (random() * 9e15)::bigint FROM (' || TG_ARGV[0] || ') AS dependent (kind, key)',
        TG_TABLE_SCHEMA
    );
BEGIN
    IF TG_OP = 'DELETE' THEN
        EXECUTE statement USING OLD;
    ELSE
        EXECUTE statement USING NEW;
    END IF;
    RETURN NULL;
END
$function$;
"""
_DROP = "DROP FUNCTION devices_note_change() CASCADE;\nDROP FUNCTION devices_note_dependents() CASCADE;"

# Table → kind and column of the key in the API; columns that the API does not show, or that the platform counts.
_MIRRORED = {
    "devices_device": ("devices", "uuid", ("signature_floor",)),
    "devices_component": ("components", "id", ()),
    "devices_componenttype": ("component-types", "id", ()),
    "devices_metric": ("metrics", "id", ()),
    "devices_unit": ("units", "id", ()),
    "devices_hardwaremodel": ("hardware-models", "id", ()),
    "devices_place": ("places", "key", ()),
    "devices_maintenancewindow": ("maintenance-windows", "id", ()),
    "devices_apikey": ("api-keys", "id", ("last_used_at",)),
}
_DEVICE = "SELECT 'devices', uuid::text FROM %1$I.devices_device WHERE id = ($1).device_id"
_OF_TYPE = """SELECT 'components', id::text FROM %1$I.devices_component WHERE component_type_id = ($1).id
UNION SELECT 'devices', uuid::text FROM %1$I.devices_device JOIN %1$I.devices_component AS c ON device_id = devices_device.id
    WHERE component_type_id = ($1).id
UNION SELECT 'metrics', id::text FROM %1$I.devices_metric WHERE component_type_id = ($1).id
UNION SELECT 'hardware-models', hardwaremodel_id::text FROM %1$I.devices_hardwaremodel_allowed_component_types
    WHERE componenttype_id = ($1).id"""
_OF_UNIT = """SELECT 'metrics', id::text FROM %1$I.devices_metric WHERE ($1).id IN (unit_id, sent_unit_id)
UNION SELECT 'component-types', component_type_id::text FROM %1$I.devices_metric WHERE ($1).id IN (unit_id, sent_unit_id)"""
_AT_PLACE = "SELECT 'devices', uuid::text FROM %1$I.devices_device WHERE place_id = ($1).id"
# Objects that show a part of others: table, whether only a new name matters (its column), columns without meaning to
# them, and the query of the objects.
_SHOWN = (
    ("devices_component", "", (), _DEVICE),
    ("devices_devicecredential", "", ("in_use_since", "rotate"), _DEVICE),
    ("devices_metric", "", (), "SELECT 'component-types', ($1).component_type_id::text"),
    (
        "devices_hardwaremodel_allowed_component_types",
        "",
        (),
        "SELECT 'hardware-models', ($1).hardwaremodel_id::text",
    ),
    ("devices_componenttype", "key", (), _OF_TYPE),
    ("devices_unit", "symbol", (), _OF_UNIT),
    ("devices_place", "key", (), _AT_PLACE),
)


def _differs(ignored: tuple[str, ...]) -> str:
    if not ignored:
        return "OLD.* IS DISTINCT FROM NEW.*"
    names = ", ".join(f"'{name}'" for name in ignored)
    return f"to_jsonb(OLD) - ARRAY[{names}] IS DISTINCT FROM to_jsonb(NEW) - ARRAY[{names}]"


def _trigger(name: str, events: str, table: str, call: str, condition: str = "") -> str:
    condition = f"WHEN ({condition}) " if condition else ""
    return f"CREATE TRIGGER {name} AFTER {events} ON {table} FOR EACH ROW {condition}EXECUTE FUNCTION {call};"


def _triggers() -> str:
    made = []
    for table, (kind, column, ignored) in _MIRRORED.items():
        call = f"devices_note_change('{kind}', '{column}')"
        made.append(_trigger("note_change", "INSERT OR DELETE", table, call))
        made.append(_trigger("note_update", "UPDATE", table, call, _differs(ignored)))
    for table, renamed, ignored, query in _SHOWN:
        call = f"devices_note_dependents('{query.replace(chr(39), chr(39) * 2)}')"
        if not renamed:
            made.append(_trigger("note_dependents", "INSERT OR DELETE", table, call))
        condition = f"OLD.{renamed} IS DISTINCT FROM NEW.{renamed}" if renamed else _differs(ignored)
        made.append(_trigger("note_dependents_of_update", "UPDATE", table, call, condition))
    return "\n".join(made)


class Migration(migrations.Migration):
    dependencies = [
        ("devices", "0029_written_values"),
    ]

    operations = [
        migrations.CreateModel(
            name="ObjectChange",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("kind", models.CharField(max_length=24)),
                ("key", models.CharField(max_length=64)),
                ("recorded_at", models.DateTimeField()),
                ("position", models.BigIntegerField(null=True)),
                ("mark", models.BigIntegerField()),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("position",), name="object_change_position_once"),
                ],
                "indexes": [
                    models.Index(fields=["kind", "position"], name="object_changes_of_kind"),
                    models.Index(
                        condition=models.Q(("position", None)), fields=["id"], name="object_changes_unnumbered"
                    ),
                ],
            },
        ),
        migrations.RunSQL(_FUNCTIONS, _DROP),
        migrations.RunSQL(_triggers(), migrations.RunSQL.noop),
    ]
