#!/bin/sh
# Sends one message of signature version 1 with mosquitto_pub, and reads the values back from the API.
# Needs a platform started with `make run`, python3, curl, and mosquitto_pub (Debian: mosquitto-clients).
set -eu
QUICKSTART=${1:-var/quickstart.json}

# The first device that signs with version 1 and is not driven by the simulator.
eval "$(python3 - "$QUICKSTART" <<'PYTHON'
import json, shlex, sys
try:
    quickstart = json.load(open(sys.argv[1]))
except (OSError, ValueError) as error:
    print(f"The quickstart file cannot be read: {error}. Start the platform with `make run` first.", file=sys.stderr)
    print("exit 2")
    sys.exit()
tenant, device = next((tenant, device) for tenant in quickstart["tenants"] for device in tenant["devices"]
                      if device["signature"] == "v1" and not device["simulated"])
values = {"HOST": quickstart["mqtt"]["host"], "PORT": quickstart["mqtt"]["port"], "TENANT": tenant["slug"],
          "TENANT_URL": tenant["url"], "API_KEY": tenant["api_key"], "DEVICE": device["uuid"],
          "PASSWORD": device["mqtt_password"], "SECRET": device["secret"], "CPU_SERIAL": device["cpu_serial"]}
print("\n".join(f"export {name}={shlex.quote(str(value))}" for name, value in values.items()))
PYTHON
)"

# Sign: the timestamp, a bar, and the message as Python's own JSON with sorted keys.
MESSAGE=$(python3 - <<'PYTHON'
import base64, datetime, hashlib, hmac, json, os
now = datetime.datetime.now(datetime.timezone.utc).isoformat()
message = {"timestamp": now, "cpu_serial": os.environ["CPU_SERIAL"], "value": {"temp": 21.5, "humidity": 44.0}}
text = f"{now}|{json.dumps(message, sort_keys=True)}"
digest = hmac.new(os.environ["SECRET"].encode(), text.encode(), hashlib.sha256).digest()
message["hmac"] = base64.b64encode(digest).decode()
print(json.dumps(message))
PYTHON
)

echo "sending $MESSAGE"
printf '%s' "$MESSAGE" | mosquitto_pub -h "$HOST" -p "$PORT" -i "$DEVICE" -u "$DEVICE" -P "$PASSWORD" \
    -q 1 -t "telemetry/$TENANT/$DEVICE/dht22" -s

sleep 1
curl -fsS -H "Authorization: Bearer $API_KEY" "${TENANT_URL}api/v1/devices/$DEVICE/latest/"
echo
