"""Tasks that the revisions before 0.2.0 queued run after the upgrade, by their former dotted paths."""

import pydoc
from importlib import import_module

import pytest
from django.utils.module_loading import import_string
from django_tenants.utils import schema_context

from tenants.infrastructure.renamed_paths import RENAMED


@pytest.mark.parametrize(("former", "path"), RENAMED.items())
def test_a_former_path_is_the_function_that_it_names_now(former: str, path: str) -> None:
    module, _, name = path.rpartition(".")
    function = getattr(import_module(module), name)
    assert pydoc.locate(former) is function, "as a worker of django-q imports it"
    assert import_string(former) is function, "as a task of a tenant is imported"


def test_a_former_module_has_nothing_else() -> None:
    assert pydoc.locate("telemetry.services.rounds.no_such_task") is None
    with pytest.raises(ImportError):
        import_module("telemetry.services.no_such_module")


def test_a_task_that_an_older_process_queued_runs(db: None, tenant_a: object) -> None:
    run = import_string("tenants.tasks.run")
    merged = run("t_alpha", "telemetry.services.rounds.fold_refusals_tenant", (), {})
    with schema_context("t_alpha"):
        assert merged == 0
