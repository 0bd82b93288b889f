"""The list of accepted failures: well-formed, and no wider than its entries say."""

import json
import tomllib
from typing import Any

import pytest

from tenants.infrastructure.error_codes import ErrorCode
from tests.api_fuzz import accepted
from tests.api_fuzz.__main__ import FOLDER, is_good, summary_of

KINDS = accepted.load()
CHECKS = ("positive_data_acceptance",)


def body(*errors: tuple[str, str]) -> bytes:
    listed = [{"code": code, "detail": detail} for code, detail in errors]
    return json.dumps({"code": "invalid", "detail": "text", "errors": listed}).encode()


def test_each_kind_has_a_reason_and_known_codes() -> None:
    assert len(KINDS) > 5
    for kind in KINDS:
        assert kind.reason.endswith("."), kind
        assert kind.codes <= {code.value for code in ErrorCode}, kind
        assert kind.codes or kind.detail, f"{kind.operations}: every failure would be accepted"
        assert kind.status < 500, "an error of the server is never accepted"


def test_a_failure_is_accepted_only_if_each_of_its_errors_is() -> None:
    kinds = accepted.load(
        '[[accepted]]\ncheck = "positive_data_acceptance"\noperations = "GET /a/.*"\nstatus = 400\n'
        'codes = ["invalid_cursor"]\nreason = "r."\n'
        '[[accepted]]\ncheck = "positive_data_acceptance"\noperations = ".*"\nstatus = 400\n'
        'detail = "a time zone"\nreason = "r."'
    )
    cursor, zone = ("invalid_cursor", "The cursor"), ("invalid_choice", "is not a time zone")

    def found(operation: str, *errors: tuple[str, str], checks: tuple[str, ...] = CHECKS, status: int = 400) -> Any:
        return accepted.kinds_of(kinds, checks, operation, status, body(*errors))

    assert found("GET /a/b/", cursor) == [0]
    assert found("GET /a/b/", cursor, zone) == [0, 1]
    assert found("GET /a/b/", cursor, ("required", "'a' is required.")) is None
    assert found("POST /a/b/", cursor) is None
    assert found("GET /a/b/", cursor, checks=("not_a_server_error",)) is None
    assert found("GET /a/b/", cursor, status=500) is None
    assert accepted.kinds_of(kinds, CHECKS, "GET /a/b/", 400, b"<html>") is None


def test_an_unknown_member_of_an_entry_is_refused() -> None:
    with pytest.raises(TypeError):
        accepted.load('[[accepted]]\ncheck = "c"\noperations = ".*"\nstatus = 400\nreason = "r."\nstatuses = [1]')


def test_only_a_complete_run_without_failures_is_good() -> None:
    assert is_good({"exit_code": 0, "failures": [], "errors": [], "accepted": {}})
    assert not is_good({"exit_code": 1, "failures": [{"count": 1}], "errors": [], "accepted": {}})
    assert not is_good({"exit_code": 2, "accepted": {}}), "schemathesis has not started"
    assert "2 failures" in summary_of({"exit_code": 1, "failures": [{"count": 2}], "accepted": {"0": 3}})


def test_what_is_not_tested_is_named() -> None:
    config = tomllib.loads((FOLDER / "schemathesis.toml").read_text(encoding="utf-8"))
    assert [one for one in config["operations"] if not one["enabled"]] == [
        {"include-name": "DELETE /api/v1/api-keys/{id}/", "enabled": False},
        {"include-path": ["/api/v1/events/", "/api/v1/readings/stream/"], "enabled": False},
    ]
