"""The archive's description: README for people, schema for programs."""

from functools import cache

import orjson
from django.db import connection
from django.utils import translation

from .tenant_tables import READINGS, TABLES, TENANT

README = """Everything that a tenant of Gwanje owns.

manifest.json    what the files hold: rows, bytes, SHA-256. Written last: a ZIP without it is not whole.
schema.json      the columns of each table, with what they are.
tenant.json      the tenant itself: names, members and their roles, limits, boards.
*.ndjson         the tables, one JSON object a line, in UTF-8; times are ISO 8601 in UTC.

telemetry.readings.ndjson holds all measured values with the names and units that they were measured with, series
after series, each in order of time. telemetry.message.ndjson is the permanent record: topic and payload as they were
received; a payload that is not UTF-8 text is in payload_base64.

Rows refer to each other by the ids in these files (device_id is the id in devices.device.ndjson, and so on).

The tables are read one after the other while the platform goes on working: a row that came or changed meanwhile may be
in one of them and not yet in another. Secrets, and what they are checked with, are in none.

To check it: unzip, and compare `sha256sum` of each file with manifest.json.
"""


@cache
def schema_document() -> bytes:
    """Return the columns of each file as JSON, in English like the rest of the archive."""
    with translation.override("en"):
        tables = {
            f"{table.name}.ndjson": {
                "of": str(table.model._meta.verbose_name_plural),
                "key": table.key,
                "columns": [
                    {
                        "name": one.column,
                        "type": one.db_type(connection),
                        "is": str(one.verbose_name),
                        **({"help": str(one.help_text)} if one.help_text else {}),
                        **({"one_of": [str(value) for value, _label in one.flatchoices]} if one.choices else {}),
                        **({"refers_to": one.related_model._meta.label} if one.is_relation else {}),
                    }
                    for one in table.columns
                ],
            }
            for table in TABLES
        }
    tables[f"{READINGS}.ndjson"] = {
        "of": "readings",
        "key": ["device", "component", "metric", "unit", "time", "value"],
        "columns": [
            {"name": "time", "type": "timestamp with time zone", "is": "device time"},
            {"name": "device", "type": "uuid", "is": "UUID of the device"},
            {"name": "component", "type": "text", "is": "key of the component"},
            {"name": "metric", "type": "text", "is": "key of the metric"},
            {"name": "value", "type": "number, boolean or text", "is": "measured value"},
            {"name": "unit", "type": "text or null", "is": "unit that it was measured in"},
        ],
    }
    document = {"tables": tables, "objects": {f"{TENANT}.json": "the tenant, its members and limits"}}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"
