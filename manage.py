#!/usr/bin/env python
"""Django's command line, with `platform/` as a source root."""

import os
import sys
from importlib import import_module
from pathlib import Path

# Commands that run without settings: `up` starts the servers that the settings require, and Django would answer
# `version` with its own.
WITHOUT_SETTINGS = ("up", "version")

# Commands that serve no pages and do not load the modules that render them.
WITHOUT_PAGES = ("run_mqtt_listener", "check_device_health", "run_notifier", "run_alarms", "simulate_devices")


def main() -> None:
    # platform/ holds config/ and is never a package: as one it would shadow the standard library's module.
    sys.path.insert(1, str(Path(__file__).resolve().parent / "platform"))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

    if len(sys.argv) > 1 and sys.argv[1] in WITHOUT_SETTINGS:
        import_module(f"management.management.commands.{sys.argv[1]}").Command().run_from_argv(sys.argv)
        return
    if len(sys.argv) > 1 and sys.argv[1] in WITHOUT_PAGES:
        os.environ.setdefault("SERVES_PAGES", "0")

    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
