"""The codes of errors in the API's responses, each with its status and its meaning."""

from dataclasses import dataclass
from enum import StrEnum

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _


class ErrorCode(StrEnum):
    """The causes of errors. Programs compare them: a code never changes its meaning, and is never translated."""

    INVALID = "invalid"
    MALFORMED = "malformed"
    REQUIRED = "required"
    NULL = "null"
    BLANK = "blank"
    INVALID_TYPE = "invalid_type"
    INVALID_FORMAT = "invalid_format"
    INVALID_CHOICE = "invalid_choice"
    OUT_OF_RANGE = "out_of_range"
    TOO_LONG = "too_long"
    TOO_SHORT = "too_short"
    DOES_NOT_EXIST = "does_not_exist"
    UNKNOWN_MEMBER = "unknown_member"
    UNKNOWN_PARAMETER = "unknown_parameter"
    READ_ONLY = "read_only"
    REPEATED = "repeated"
    INVALID_RANGE = "invalid_range"
    INVALID_CURSOR = "invalid_cursor"
    NOT_STORABLE = "not_storable"
    TOO_MANY_RESULTS = "too_many_results"
    TOO_EXPENSIVE = "too_expensive"
    INCOMPATIBLE_UNITS = "incompatible_units"
    NOT_AUTHENTICATED = "not_authenticated"
    INVALID_CREDENTIALS = "invalid_credentials"
    PERMISSION_DENIED = "permission_denied"
    MEMBERSHIP_REQUIRED = "membership_required"
    ROLE_REQUIRED = "role_required"
    SCOPE_REQUIRED = "scope_required"
    UNKNOWN_TOKEN = "unknown_token"  # noqa: S105 (a code)
    NOT_FOUND = "not_found"
    UNKNOWN_ADDRESS = "unknown_address"
    UNKNOWN_TENANT = "unknown_tenant"
    UNKNOWN_HOST = "unknown_host"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    NOT_ACCEPTABLE = "not_acceptable"
    TIMEOUT = "timeout"
    EXISTS = "exists"
    IN_USE = "in_use"
    HAS_READINGS = "has_readings"
    ALREADY_CLAIMED = "already_claimed"
    ALREADY_FETCHED = "already_fetched"
    NOT_CLAIMED = "not_claimed"
    WRONG_STATE = "wrong_state"
    TOO_MANY_REPLAYS = "too_many_replays"
    RACED = "raced"
    LAST_OWNER = "last_owner"
    QUOTA_EXCEEDED = "quota_exceeded"
    IDEMPOTENCY_IN_PROGRESS = "idempotency_in_progress"
    POSITION_DROPPED = "position_dropped"
    FEED_RESTARTED = "feed_restarted"
    PRECONDITION_FAILED = "precondition_failed"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    THROTTLED = "throttled"
    TOO_MANY_AT_ONCE = "too_many_at_once"
    INTERNAL_ERROR = "internal_error"
    UNAVAILABLE = "unavailable"
    VAULT_UNAVAILABLE = "vault_unavailable"
    BROKER_UNAVAILABLE = "broker_unavailable"
    TENANT_UNAVAILABLE = "tenant_unavailable"
    BUSY = "busy"

    @property
    def status(self) -> int:
        """Return the HTTP status of a response with this code."""
        return MEANINGS[self].status

    @property
    def meaning(self) -> str:
        """Return the meaning in the language of the request."""
        return str(MEANINGS[self].text)


@dataclass(frozen=True, slots=True)
class Meaning:
    """The status of a code, and what it means."""

    status: int
    text: Promise


MEANINGS: dict[ErrorCode, Meaning] = {
    ErrorCode.INVALID: Meaning(400, _("A value of the request is not valid.")),
    ErrorCode.MALFORMED: Meaning(400, _("The request cannot be read.")),
    ErrorCode.REQUIRED: Meaning(400, _("A required value is missing.")),
    ErrorCode.NULL: Meaning(400, _("The value must not be null.")),
    ErrorCode.BLANK: Meaning(400, _("The value must not be empty.")),
    ErrorCode.INVALID_TYPE: Meaning(400, _("The value has a type that is not allowed.")),
    ErrorCode.INVALID_FORMAT: Meaning(400, _("The value does not have the required form.")),
    ErrorCode.INVALID_CHOICE: Meaning(400, _("The value is not one of the allowed values.")),
    ErrorCode.OUT_OF_RANGE: Meaning(400, _("The value is not in the allowed range.")),
    ErrorCode.TOO_LONG: Meaning(400, _("The value is too long.")),
    ErrorCode.TOO_SHORT: Meaning(400, _("The value is too short.")),
    ErrorCode.DOES_NOT_EXIST: Meaning(400, _("The value names an object that does not exist.")),
    ErrorCode.UNKNOWN_MEMBER: Meaning(400, _("The body has a member that is not known.")),
    ErrorCode.UNKNOWN_PARAMETER: Meaning(400, _("The address has a parameter that is not known.")),
    ErrorCode.READ_ONLY: Meaning(400, _("The member cannot be changed.")),
    ErrorCode.REPEATED: Meaning(400, _("The value must be given only once.")),
    ErrorCode.INVALID_RANGE: Meaning(400, _("The time range is not valid.")),
    ErrorCode.INVALID_CURSOR: Meaning(400, _("The cursor does not belong to this list.")),
    ErrorCode.NOT_STORABLE: Meaning(400, _("The database cannot store the value.")),
    ErrorCode.TOO_MANY_RESULTS: Meaning(400, _("The request selects more than one response can contain.")),
    ErrorCode.TOO_EXPENSIVE: Meaning(400, _("The query takes too long.")),
    ErrorCode.INCOMPATIBLE_UNITS: Meaning(400, _("The units measure different quantities.")),
    ErrorCode.NOT_AUTHENTICATED: Meaning(401, _("The request has no credentials.")),
    ErrorCode.INVALID_CREDENTIALS: Meaning(401, _("The credentials are not valid.")),
    ErrorCode.PERMISSION_DENIED: Meaning(403, _("The request is not permitted.")),
    ErrorCode.MEMBERSHIP_REQUIRED: Meaning(403, _("The user is not a member of the tenant.")),
    ErrorCode.ROLE_REQUIRED: Meaning(403, _("The request requires a higher role.")),
    ErrorCode.SCOPE_REQUIRED: Meaning(403, _("The request requires an API key with another scope.")),
    ErrorCode.UNKNOWN_TOKEN: Meaning(403, _("The fetch token is not known.")),
    ErrorCode.NOT_FOUND: Meaning(404, _("The object does not exist.")),
    ErrorCode.UNKNOWN_ADDRESS: Meaning(404, _("The address does not exist.")),
    ErrorCode.UNKNOWN_TENANT: Meaning(404, _("The tenant does not exist.")),
    ErrorCode.UNKNOWN_HOST: Meaning(404, _("The host name is not served.")),
    ErrorCode.METHOD_NOT_ALLOWED: Meaning(405, _("The address does not offer the method.")),
    ErrorCode.NOT_ACCEPTABLE: Meaning(406, _("The address does not offer the requested content type.")),
    ErrorCode.TIMEOUT: Meaning(408, _("The body arrived too slowly.")),
    ErrorCode.EXISTS: Meaning(409, _("The object already exists.")),
    ErrorCode.IN_USE: Meaning(409, _("Other objects use the object.")),
    ErrorCode.HAS_READINGS: Meaning(409, _("The object has readings, which would be lost.")),
    ErrorCode.ALREADY_CLAIMED: Meaning(409, _("The device is already claimed.")),
    ErrorCode.ALREADY_FETCHED: Meaning(409, _("The credentials were already fetched.")),
    ErrorCode.NOT_CLAIMED: Meaning(409, _("The device was not claimed.")),
    ErrorCode.WRONG_STATE: Meaning(409, _("The state of the object does not allow the request.")),
    ErrorCode.TOO_MANY_REPLAYS: Meaning(409, _("Too many replays are in progress.")),
    ErrorCode.RACED: Meaning(409, _("Another request changed the same object at the same time.")),
    ErrorCode.LAST_OWNER: Meaning(409, _("The tenant would have no owner.")),
    ErrorCode.QUOTA_EXCEEDED: Meaning(409, _("The quota of the tenant is used up.")),
    ErrorCode.IDEMPOTENCY_IN_PROGRESS: Meaning(409, _("A request with this Idempotency-Key is in progress.")),
    ErrorCode.POSITION_DROPPED: Meaning(410, _("Retention has removed changes after the position of the cursor.")),
    ErrorCode.FEED_RESTARTED: Meaning(410, _("The database does not have the position of the cursor.")),
    ErrorCode.PRECONDITION_FAILED: Meaning(412, _("The object was changed since it was read.")),
    ErrorCode.TOO_LARGE: Meaning(413, _("The request is too large.")),
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: Meaning(415, _("The address does not accept the content type.")),
    ErrorCode.IDEMPOTENCY_KEY_REUSED: Meaning(422, _("The Idempotency-Key was sent with another request.")),
    ErrorCode.THROTTLED: Meaning(429, _("Too many requests.")),
    ErrorCode.TOO_MANY_AT_ONCE: Meaning(429, _("Too many requests are in progress at the same time.")),
    ErrorCode.INTERNAL_ERROR: Meaning(500, _("Internal error.")),
    ErrorCode.UNAVAILABLE: Meaning(503, _("The database is unavailable.")),
    ErrorCode.VAULT_UNAVAILABLE: Meaning(503, _("The store of device keys is unavailable.")),
    ErrorCode.BROKER_UNAVAILABLE: Meaning(503, _("The broker is unavailable.")),
    ErrorCode.TENANT_UNAVAILABLE: Meaning(503, _("The tenant is unavailable.")),
    ErrorCode.BUSY: Meaning(503, _("The server is busy.")),
}

# The codes of Django and REST framework, by the project's codes. Any other code is `invalid`.
_LIBRARY_CODES: dict[str, ErrorCode] = {
    "empty": ErrorCode.BLANK,
    "incorrect_type": ErrorCode.INVALID_TYPE,
    "not_a_list": ErrorCode.INVALID_TYPE,
    "not_a_dict": ErrorCode.INVALID_TYPE,
    "naive": ErrorCode.INVALID_FORMAT,
    "invalid_list": ErrorCode.INVALID_TYPE,
    "invalid_pk_value": ErrorCode.INVALID_CHOICE,
    "max_length": ErrorCode.TOO_LONG,
    "max_string_length": ErrorCode.TOO_LONG,
    "min_length": ErrorCode.TOO_SHORT,
    "max_value": ErrorCode.OUT_OF_RANGE,
    "min_value": ErrorCode.OUT_OF_RANGE,
    "overflow": ErrorCode.OUT_OF_RANGE,
    "max_digits": ErrorCode.OUT_OF_RANGE,
    "null_characters_not_allowed": ErrorCode.NOT_STORABLE,
    "surrogate_characters_not_allowed": ErrorCode.NOT_STORABLE,
    "unique": ErrorCode.EXISTS,
    "unique_together": ErrorCode.EXISTS,
    "parse_error": ErrorCode.MALFORMED,
    "authentication_failed": ErrorCode.INVALID_CREDENTIALS,
    "error": ErrorCode.INTERNAL_ERROR,
}


def error_code(code: str | None) -> ErrorCode:
    """Return the project's code for a code of Django, REST framework or the project."""
    try:
        return ErrorCode(code or "")
    except ValueError:
        return _LIBRARY_CODES.get(code or "", ErrorCode.INVALID)
