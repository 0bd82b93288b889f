"""Program that limits itself and then runs another one: MEMORY_BYTES CPU_SECONDS SCRIPT ARGUMENTS….

It is run by path, in isolated mode and without site packages (`python -I -S`), so that it starts in milliseconds.
"""

import os
import resource
import runpy
import sys

OUT_OF_MEMORY = 70  # the exit status


def limit(memory: int, seconds: int) -> None:
    """Limit this process: memory, processor time, files; other processes have precedence on the processor."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    # At the first the kernel sends SIGXCPU, a second later SIGKILL.
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(kind, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
    os.nice(10)


def main() -> None:
    """Run the program within its limits; exit with `OUT_OF_MEMORY` when it needs more memory."""
    memory, seconds, script = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    sys.argv = sys.argv[3:]
    limit(memory, seconds)
    try:
        runpy.run_path(script, run_name="__main__")
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


if __name__ == "__main__":
    main()
