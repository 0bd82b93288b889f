"""The hooks of schemathesis: drop accepted failures, and write how often each kind came to `GWANJE_ACCEPTED`."""

import os
import sys
import threading
from pathlib import Path
from typing import Any

import schemathesis

sys.path.insert(0, str(Path(__file__).parent))
import accepted

_KINDS = accepted.load()
_lock = threading.Lock()


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Return whether the failure is reported."""
    found = accepted.kinds_of(_KINDS, failure.checks, case.operation.label, response.status_code, response.content)
    if found is None:
        return True
    with _lock, Path(os.environ["GWANJE_ACCEPTED"]).open("a", encoding="utf-8") as file:
        file.writelines(f"{number}\n" for number in found)
    return False
