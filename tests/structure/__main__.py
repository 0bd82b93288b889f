"""`python -m tests.structure [CHECKOUT]`: the figures of a checkout as JSON, from its text alone."""

import json
import sys
from pathlib import Path

from tests.structure.measures import measure

if __name__ == "__main__":
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    sys.stdout.write(json.dumps(measure(root), indent=2, ensure_ascii=False) + "\n")
