"""Dotted paths that changed in 0.2.0 and that tasks and schedules of the revisions before 0.2.0 still contain.

A worker imports a task by its dotted path. `install` makes the former paths importable, so that what an older process
queued runs after the upgrade. Remove the entries in 0.3.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_PERIODIC = "telemetry.services.periodic_tasks"

# Former path → path, of functions.
RENAMED: dict[str, str] = {
    "tenants.tasks.run": "tenants.infrastructure.tasks.run",
    "tenants.infrastructure.jobs.run": "tenants.infrastructure.tasks.run",
    "devices.services.broker_sync.sync_broker": "devices.services.broker.synchronization.sync_broker",
    "devices.services.claims.release_by_staff": "devices.services.provisioning.claims.release_by_staff",
    "devices.services.imports.runs.resume_all": "devices.services.provisioning.import_jobs.resume_all",
    "devices.services.imports.runs.step": "devices.services.provisioning.import_jobs.step",
    "devices.services.registration.remove_secret": "devices.services.provisioning.registration.remove_secret",
    "telemetry.services.replays.step": "telemetry.services.quarantine.replays.step",
    "telemetry.services.unrouted.replay_all": "telemetry.services.quarantine.unrouted.replay_all",
    "telemetry.services.rounds.roll_up": f"{_PERIODIC}.roll_up",
    "telemetry.services.rounds.roll_up_tenant": f"{_PERIODIC}.roll_up_tenant",
    "telemetry.services.rounds.keep_latest": f"{_PERIODIC}.refill_latest",
    "telemetry.services.rounds.complete_tenant": f"{_PERIODIC}.refill_latest_tenant",
    "telemetry.services.rounds.move_latest": f"{_PERIODIC}.persist_latest",
    "telemetry.services.rounds.move_tenant": f"{_PERIODIC}.persist_latest_tenant",
    "telemetry.services.rounds.pack": f"{_PERIODIC}.pack_readings",
    "telemetry.services.rounds.pack_tenant": f"{_PERIODIC}.pack_readings_tenant",
    "telemetry.services.rounds.retain": f"{_PERIODIC}.apply_retention",
    "telemetry.services.rounds.retain_tenant": f"{_PERIODIC}.apply_retention_tenant",
    "telemetry.services.rounds.fold_refusals": f"{_PERIODIC}.merge_limit_counts",
    "telemetry.services.rounds.fold_refusals_tenant": f"{_PERIODIC}.merge_limit_counts_tenant",
    "telemetry.services.rounds.keep_quarantine": f"{_PERIODIC}.apply_quarantine_retention",
    "telemetry.services.rounds.keep_quarantine_tenant": f"{_PERIODIC}.apply_quarantine_retention_tenant",
    "telemetry.services.rounds.resume_replays": f"{_PERIODIC}.resume_replays",
    "telemetry.services.rounds.resume_replays_tenant": f"{_PERIODIC}.resume_replays_tenant",
}


class RenamedModules(MetaPathFinder, Loader):
    """Importer of the former modules: each has the renamed functions and nothing else."""

    def __init__(self, renamed: dict[str, str]) -> None:
        self._renamed = renamed
        modules = {path.rpartition(".")[0] for path in renamed}
        # A former package, such as `devices.services.imports`, must be importable before its module.
        self._names = modules | {name.rpartition(".")[0] for name in modules}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a former module, None for any other."""
        return ModuleSpec(fullname, self, is_package=True) if fullname in self._names else None

    def exec_module(self, module: ModuleType) -> None:
        """Give the module a `__getattr__` that imports the renamed functions."""

        def find(name: str) -> Any:
            try:
                owner, _, function = self._renamed[f"{module.__name__}.{name}"].rpartition(".")
            except KeyError:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}") from None
            return getattr(import_module(owner), function)

        module.__getattr__ = find  # type: ignore[method-assign]


def install() -> None:
    """Make the former paths importable in this process. Modules that exist are found before them."""
    if not any(isinstance(finder, RenamedModules) for finder in sys.meta_path):
        sys.meta_path.append(RenamedModules(RENAMED))
