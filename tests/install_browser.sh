#!/usr/bin/env bash
# Chromium for the tests of pages, and mosquitto_pub for the readme's example, as root on Debian and Ubuntu. Without
# them those tests are skipped, and say so.
set -u
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing Chromium and mosquitto_pub for the tests"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        chromium mosquitto-clients fonts-noto-cjk >/dev/null && exit 0
fi
echo "Chromium or mosquitto_pub is not on this machine: the tests that need it are skipped" >&2
