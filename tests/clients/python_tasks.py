"""Tasks of a program that uses the Python client. Prints one JSON object: a member for each task.

The environment has `GWANJE_URL`, `GWANJE_KEY`, `GWANJE_DEVICE` (a device with readings and a quarantined message) and
`UNSTEADY_URL` (a server that fails first).
"""

import itertools
import json
import os
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from gwanje_client import ApiProblem, changes, connect, events, pages, unwrap
from gwanje_client.generated.api.component_types import component_types_create, component_types_list
from gwanje_client.generated.api.devices import (
    devices_create,
    devices_history,
    devices_latest,
    devices_list,
    devices_partial_update,
    devices_retrieve,
)
from gwanje_client.generated.api.metrics import metrics_create
from gwanje_client.generated.api.quarantine import (
    quarantine_list,
    quarantine_replays_create,
    quarantine_replays_retrieve,
)
from gwanje_client.generated.api.readings import (
    readings_aggregates,
    readings_changes,
    readings_export,
    readings_list,
)
from gwanje_client.generated.api.whoami import whoami
from gwanje_client.generated.models import (
    ComponentTypeRequest,
    MetricRequest,
    NewReplayRequest,
    PatchedDeviceRequest,
    RegistrationRequest,
)

done: dict[str, object] = {}
client = connect(os.environ["GWANJE_URL"], os.environ["GWANJE_KEY"])
device = UUID(os.environ["GWANJE_DEVICE"])
mark = uuid4().hex[:8]
day_ago = datetime.now(UTC) - timedelta(days=1)

done["who am I"] = unwrap(whoami.sync_detailed(client=client)).tenant

# A component type with a metric.
kind = unwrap(
    component_types_create.sync_detailed(client=client, body=ComponentTypeRequest(key=f"t{mark}", name="Thermometer"))
)
unwrap(
    metrics_create.sync_detailed(
        client=client, body=MetricRequest(component_type=kind.key, key="temperature", path="temp", unit="°C")
    )
)
done["a metric of a new component type"] = any(
    each.key == kind.key for each in pages(component_types_list.sync_detailed, client)
)

# A registration that is repeated under its key is carried out once.
body, key = RegistrationRequest(name=f"greenhouse {mark}"), uuid4().hex
first, second = (unwrap(devices_create.sync_detailed(client=client, body=body, idempotency_key=key)) for _ in range(2))
done["a device registered once"] = first.uuid == second.uuid

done["all devices, two a page"] = [str(each.uuid) for each in pages(devices_list.sync_detailed, client, limit=2)]

# An edit that does not overwrite the edit of another.
read = devices_retrieve.sync_detailed(first.uuid, client=client)
tag = read.headers["ETag"]
unwrap(
    devices_partial_update.sync_detailed(
        first.uuid, client=client, body=PatchedDeviceRequest(name=f"house {mark}"), if_match=tag
    )
)
try:
    unwrap(
        devices_partial_update.sync_detailed(
            first.uuid, client=client, body=PatchedDeviceRequest(name="another"), if_match=tag
        )
    )
except ApiProblem as problem:
    done["an edit of what was changed meanwhile"] = [problem.status, problem.code]

latest = unwrap(devices_latest.sync_detailed(device, client=client)).results
done["newest values"] = {f"{each.component} {each.metric}": each.value for each in latest}

values = pages(
    readings_list.sync_detailed, client, device=device, component="dht22", metric="temperature", from_=day_ago, limit=2
)
done["readings of a day"] = [each.value for each in values]

(series,) = unwrap(
    readings_aggregates.sync_detailed(
        client=client,
        device=[device],
        metric=["temperature"],
        interval="1d",
        aggregate=["count", "max"],
        from_=day_ago - timedelta(days=1),
    )
).series
done["highest of a day"] = max(each["max"] for each in series.to_dict()["results"])

# A mirror, stopped and resumed.
copied, address = [], ""
for page in changes(readings_changes.sync_detailed, client, limit=2):
    copied += [each.value for each in page.results if each.device == device]
    address = page.next_
done["a mirror"] = copied
done["nothing new for the mirror"] = sum(
    len(page.results) for page in changes(readings_changes.sync_detailed, client, address)
)

(newest,) = itertools.islice(events(client, device=str(device)), 1)
done["a stream"] = [newest.name, sorted(each["value"] for each in newest.data)]

done["why the device is where it is"] = [
    each.to for each in unwrap(devices_history.sync_detailed(device, client=client)).results
]

(refused,) = pages(quarantine_list.sync_detailed, client, device=device)
replay = unwrap(
    quarantine_replays_create.sync_detailed(client=client, body=NewReplayRequest(device=device, reason=refused.reason))
)
for _ in range(600):
    if replay.state in ("done", "cancelled"):
        break
    time.sleep(0.2)
    replay = unwrap(quarantine_replays_retrieve.sync_detailed(replay.id, client=client))
done["a replay"] = [replay.state, replay.total]

export = readings_export.sync_detailed(client=client, device=[device], format_="csv", from_=day_ago)
done["an export"] = len(export.content.decode().splitlines())

try:
    unwrap(devices_retrieve.sync_detailed(uuid4(), client=client))
except ApiProblem as problem:
    done["what does not exist"] = [problem.status, problem.code]

# Lost answers are requested again, under one key.
unsteady = connect(os.environ["UNSTEADY_URL"], "a-key")
answered = unsteady.get_httpx_client().post("/api/v1/devices/", json={})
done["an unsteady server"] = answered.status_code

print(json.dumps(done))  # noqa: T201 - for the test that reads it
