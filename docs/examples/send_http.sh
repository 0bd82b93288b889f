#!/bin/sh
# Sends one message of signature version 2 over HTTP. Needs curl and openssl, and these variables:
# TENANT_URL (for example https://demo.gwanje.example/), TENANT, DEVICE, SECRET and KID as registration showed them.
# CPU_SERIAL where one is registered, COMPONENT (dht22), BOOT_FILE (boot-$DEVICE in this directory).
set -eu
COMPONENT=${COMPONENT:-dht22}

base64url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }

# `boot` counts the starts, in a file that lasts, from the Unix time on. Each start sends one message here: `seq` is 1.
BOOT_FILE=${BOOT_FILE:-boot-$DEVICE}
LAST=$(cat "$BOOT_FILE" 2> /dev/null || echo 0)
BOOT=$(date +%s)
[ "$BOOT" -gt "$LAST" ] || BOOT=$((LAST + 1))
echo "$BOOT" > "$BOOT_FILE"

HEADER=$(printf '{"alg":"HS256","kid":"%s"}' "$KID" | base64url)
OBJECT=$(printf '{"device_uuid":"%s","component":"%s","boot":%s,"seq":1,"timestamp":%s,"cpu_serial":"%s","value":%s}' \
    "$DEVICE" "$COMPONENT" "$BOOT" "$(date +%s)" "${CPU_SERIAL:-}" '{"temp":21.5,"humidity":44}' | base64url)
MAC=$(printf '%s.%s' "$HEADER" "$OBJECT" | openssl dgst -sha256 -hmac "$SECRET" -binary | base64url)

# 202: the answer says of each message what became of it, and that is committed. 429, 503 or no answer: send it again.
curl -sS --fail-with-body --retry 5 -H 'Content-Type: application/json' "${TENANT_URL}api/v1/devices/$DEVICE/messages/" \
    -d "{\"messages\":[{\"topic\":\"telemetry/$TENANT/$DEVICE/$COMPONENT\",\"payload\":\"$HEADER.$OBJECT.$MAC\"}]}"
echo
