"""The system check of PostgreSQL's table of locks."""

from django.core.checks import run_checks

from tenants.infrastructure.lock_table import warnings_for


def test_the_embedded_server_has_room(db: None) -> None:
    assert [found.id for found in run_checks(databases=["default"]) if found.id == "gwanje.W001"] == []


def test_too_many_tables_are_reported_with_the_setting_that_suffices() -> None:
    assert warnings_for(4000, 64, 100) == []
    (warning,) = warnings_for(10_000, 64, 100)
    assert "10000 tables" in warning.msg
    assert warning.hint is not None
    assert "at least 143 (it is 64)" in warning.hint
    assert warnings_for(10_000, 143, 100) == []
