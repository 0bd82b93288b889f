#!/bin/sh
# Sends one message of signature version 1, and reads the values back from the API.
# Needs a platform started with `make run`, python3 and curl. It sends with mosquitto_pub (Debian: mosquitto-clients),
# or, where that is missing, with the standard library of Python.
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
if command -v mosquitto_pub > /dev/null; then
    printf '%s' "$MESSAGE" | mosquitto_pub -h "$HOST" -p "$PORT" -i "$DEVICE" -u "$DEVICE" -P "$PASSWORD" \
        -q 1 -t "telemetry/$TENANT/$DEVICE/dht22" -s
else
    echo "mosquitto_pub is not installed: sending with Python"
    MESSAGE=$MESSAGE python3 - <<'PYTHON'
import os, socket, sys
def text(value):
    return len(value.encode()).to_bytes(2, "big") + value.encode()
def packet(kind, body):  # MQTT 3.1.1: a type, the length in groups of 7 bits, the content
    size, length = len(body), b""
    while size > 127:
        length, size = length + bytes([size % 128 + 128]), size // 128
    return bytes([kind]) + length + bytes([size]) + body
HOST, PORT, TENANT, DEVICE, PASSWORD, MESSAGE = (
    os.environ[name] for name in ("HOST", "PORT", "TENANT", "DEVICE", "PASSWORD", "MESSAGE"))
with socket.create_connection((HOST, int(PORT)), 30) as broker:
    answer = broker.makefile("rb")
    # CONNECT with a clean session, a name and a password; keep-alive 30 s
    broker.sendall(packet(0x10, text("MQTT") + b"\x04\xc2\x00\x1e" + text(DEVICE) + text(DEVICE) + text(PASSWORD)))
    if (code := answer.read(4)[3:]) != b"\0":
        sys.exit(f"The broker refuses the connection (code {code.hex() or 'none'}): check the UUID and the password.")
    topic = text(f"telemetry/{TENANT}/{DEVICE}/dht22")
    broker.sendall(packet(0x32, topic + b"\0\1" + MESSAGE.encode()))  # PUBLISH, QoS 1, packet 1
    if answer.read(4) != b"\x40\2\0\1":
        sys.exit("The broker did not acknowledge the message.")
    broker.sendall(packet(0xE0, b""))
PYTHON
fi

sleep 1
curl -fsS -H "Authorization: Bearer $API_KEY" "${TENANT_URL}api/v1/devices/$DEVICE/latest/"
echo
