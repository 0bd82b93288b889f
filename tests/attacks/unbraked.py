"""A process of the platform without one brake, for the controls of `make attacks`.

`python -m tests.attacks.unbraked BRAKE manage.py run_mqtt_listener …`, or `… BRAKE uvicorn config.asgi:application …`.
"""

import os
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "platform"))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

import django


def main() -> None:
    """Remove the brake, and run the program."""
    name, program, *arguments = sys.argv[1:]
    if program == "manage.py" and arguments[0] != "qcluster":
        os.environ.setdefault("SERVES_PAGES", "0")
    django.setup()

    from tests.attacks.attack import BRAKES, load_rows

    load_rows()
    BRAKES[name]()
    if program == "uvicorn":
        import uvicorn

        uvicorn.main(arguments)
    else:
        from django.core.management import execute_from_command_line

        execute_from_command_line([program, *arguments])


if __name__ == "__main__":
    main()
