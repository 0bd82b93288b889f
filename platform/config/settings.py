"""Settings of every process. One file; what differs between machines comes from the environment."""

import sys
from pathlib import Path

from django.templatetags.static import static
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from tenants.infrastructure.client_address import parse_networks
from tenants.infrastructure.origins import parse_origins
from tenants.infrastructure.secret_values import SecretText, SecretUrl

from . import environment

env = environment.load()

BASE_DIR: Path = environment.BASE_DIR
VAR_DIR: Path = environment.var_dir()

DEBUG: bool = env.bool("DEBUG", default=False)
SECRET_KEY: str = SecretText(environment.required(env, "SECRET_KEY", "give it a long random string."))
ALLOWED_HOSTS: list[str] = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]", ".localhost"])
if DEBUG:
    environment.require_loopback(ALLOWED_HOSTS, sys.argv)
CSRF_TRUSTED_ORIGINS: list[str] = env.list("CSRF_TRUSTED_ORIGINS", default=[])

# --- Applications and tenancy -------------------------------------------------------------------------------

SHARED_APPS = [
    "management",  # first: its create_tenant is ours, and not django-tenants'
    "django_tenants",
    "tenants",
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.humanize",
    "django.contrib.staticfiles",
    "django.contrib.admin",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_q",
]
# A process without pages and API needs only these (see `manage.py`) and uses 13 MB less memory.
SERVES_PAGES: bool = env.bool("SERVES_PAGES", default=True)
if not SERVES_PAGES:
    SHARED_APPS = ["management", "django_tenants", "tenants", "django.contrib.auth", "django.contrib.contenttypes"]
TENANT_APPS = ["devices", "telemetry", "alarms"]
INSTALLED_APPS = SHARED_APPS + TENANT_APPS

TENANT_MODEL = "tenants.Tenant"
TENANT_DOMAIN_MODEL = "tenants.Domain"
PUBLIC_SCHEMA_NAME = "public"
PUBLIC_SCHEMA_URLCONF = "config.urls_public"
ROOT_URLCONF = "config.urls"
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]
TENANT_LIMIT_SET_CALLS = True
# Of `migrate_schemas`: a tenant whose migration fails does not stop the others.
GET_EXECUTOR_FUNCTION = "tenants.services.tenant_migrations.executor_named"

AUTH_USER_MODEL = "tenants.User"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

MIDDLEWARE = [
    "tenants.security_headers.set_security_headers",
    "tenants.middleware.trust_proxies",
    "tenants.request_ids.set_request_id",
    "tenants.compression.compress_answers",
    "django.middleware.security.SecurityMiddleware",
    "tenants.static_files.serve_static",
    "tenants.middleware.TenantMiddleware",
    "tenants.cors.allow_origins",
    "tenants.middleware.share_connections",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

ASGI_APPLICATION = "config.asgi.application"
WSGI_APPLICATION = "config.wsgi.application"

# --- PostgreSQL ---------------------------------------------------------------------------------------------

environment.required(env, "DATABASE_URL", "for example postgres://user:password@host:5432/gwanje.")
_database = env.db_url("DATABASE_URL", engine="django_tenants.postgresql_backend")
_database["PASSWORD"] = SecretText(_database.get("PASSWORD") or "")
_database["OPTIONS"] = {**_database.get("OPTIONS", {}), "connect_timeout": 5}
# Of the web server's pool: the most connections, the share of them that the requests of one tenant may use at a time,
# and the seconds that a statement may wait for a lock, and may take.
DATABASE_POOL_SIZE: int = env.int("DATABASE_POOL_SIZE", default=8)
DATABASE_TENANT_SHARE: float = env.float("DATABASE_TENANT_SHARE", default=0.5)
DATABASE_LOCK_SECONDS: float = env.float("DATABASE_LOCK_SECONDS", default=3.0)
DATABASE_STATEMENT_SECONDS: float = env.float("DATABASE_STATEMENT_SECONDS", default=60.0)
if env.bool("DATABASE_POOL", default=False):
    # For the web server only: a pool does not survive the worker's fork.
    from .pool import PooledConnection

    _database["CONN_MAX_AGE"] = 0
    _database["CONN_HEALTH_CHECKS"] = True  # a connection that broke in the pool is replaced when it is taken
    _database["OPTIONS"]["options"] = " ".join(
        [
            *filter(None, [_database["OPTIONS"].get("options")]),
            f"-c lock_timeout={int(1000 * DATABASE_LOCK_SECONDS)}",
            f"-c statement_timeout={int(1000 * DATABASE_STATEMENT_SECONDS)}",
        ]
    )
    _database["OPTIONS"]["pool"] = {
        "min_size": 1,
        "max_size": DATABASE_POOL_SIZE,
        "timeout": 10,
        "connection_class": PooledConnection,
    }
else:
    _database["CONN_MAX_AGE"] = 60
    _database["CONN_HEALTH_CHECKS"] = True
DATABASES = {"default": _database}

# --- Redis --------------------------------------------------------------------------------------------------

REDIS_URL = SecretUrl(environment.required(env, "REDIS_URL", "for example redis://host:6379/0."))
CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": SecretText(REDIS_URL.reveal()),
        "KEY_FUNCTION": "django_tenants.cache.make_key",
        "REVERSE_KEY_FUNCTION": "django_tenants.cache.reverse_key",
        "OPTIONS": {
            "SOCKET_CONNECT_TIMEOUT": 0.5,
            "SOCKET_TIMEOUT": 0.5,
            "CONNECTION_POOL_CLASS": "tenants.infrastructure.redis_breaker.BreakerPool",
        },
    }
}

# --- Vault --------------------------------------------------------------------------------------------------

VAULT_ADDR: str = env.str("VAULT_ADDR", default="")
VAULT_MOUNT: str = env.str("VAULT_MOUNT", default="gwanje")
# One JSON file for each role ({"role_id", "secret_id"}): listener.json, web.json and provisioner.json.
VAULT_APPROLE_DIR: str = env.str("VAULT_APPROLE_DIR", default="")
# The role with which this process writes devices' secrets. Web servers use `web`, which cannot remove any.
VAULT_ROLE: str = env.str("VAULT_ROLE", default="provisioner")
VAULT_TIMEOUT: float = env.float("VAULT_TIMEOUT", default=2.0)
KEY_CACHE_SOFT_TTL: float = env.float("KEY_CACHE_SOFT_TTL", default=300.0)
KEY_CACHE_HARD_TTL: float = env.float("KEY_CACHE_HARD_TTL", default=86400.0)
# How long old keys remain valid after the last device has changed its key, for messages in transit.
ROTATION_GRACE_SECONDS: float = env.float("ROTATION_GRACE_SECONDS", default=60.0)
# Validity of a token that is delivered with a new key.
ROTATION_TOKEN_SECONDS: int = env.int("ROTATION_TOKEN_SECONDS", default=86400)

# --- Preregistered devices -----------------------------------------------------------------------------------

# Wrong claim codes per hour of a tenant, and of each of its users and keys.
CLAIM_FAILURES_PER_HOUR: int = env.int("CLAIM_FAILURES_PER_HOUR", default=20)
# Requests for credentials per minute from one address; seconds until an unclaimed device tries again; seconds in which
# a device can repeat a successful request, in case the response was lost.
FETCHES_PER_MINUTE: int = env.int("FETCHES_PER_MINUTE", default=120)
FETCH_RETRY_SECONDS: int = env.int("FETCH_RETRY_SECONDS", default=30)
FETCH_REPEAT_SECONDS: int = env.int("FETCH_REPEAT_SECONDS", default=900)

# --- MQTT ---------------------------------------------------------------------------------------------------

MQTT_URL = SecretUrl(env.str("MQTT_URL", default=""))
MQTT_ADMIN_URL = SecretUrl(env.str("MQTT_ADMIN_URL", default=""))
# EMQX's management API with its key and secret: http://key:secret@host:18083. Sessions are ended through it.
EMQX_API_URL = SecretUrl(env.str("EMQX_API_URL", default=""))
# Keys with which EMQX authenticates to the platform; several during their rotation.
BROKER_KEYS: list[str] = [SecretText(key) for key in env.list("BROKER_KEYS", default=[])]
BROKER_FAILURES_PER_MINUTE: int = env.int("BROKER_FAILURES_PER_MINUTE", default=60)
MQTT_BRIDGE_URL = SecretUrl(env.str("MQTT_BRIDGE_URL", default=""))
# The address of the broker in devices' configuration; by default that of the platform's own connection.
MQTT_HOST: str = env.str("MQTT_HOST", default=MQTT_URL.parts.hostname or "localhost")
_default_port = 8883 if MQTT_URL.parts.scheme == "mqtts" else 1883
MQTT_PORT: int = env.int("MQTT_PORT", default=MQTT_URL.parts.port or _default_port)
# The authorities of the broker's certificate, where they are not the system's.
MQTT_CA_FILE: str = env.str("MQTT_CA_FILE", default="")
MQTT_CLIENT_ID: str = env.str("MQTT_CLIENT_ID", default="gwanje-listener")
# Where the broker is EMQX with the rule of deploy/emqx/: its events are presence events.
MQTT_BROKER_EVENTS: bool = env.bool("MQTT_BROKER_EVENTS", default=False)
# States that a notifier publishes on request (`client/request_state`) of one tenant's apps; 0: unlimited.
STATE_REQUESTS_PER_SECOND: float = env.float("STATE_REQUESTS_PER_SECOND", default=50.0)
MQTT_NOTIFIER_CLIENT_ID: str = env.str("MQTT_NOTIFIER_CLIENT_ID", default="gwanje-notifier")

# --- Ingest -------------------------------------------------------------------------------------------------

INGEST_BATCH_MESSAGES: int = env.int("INGEST_BATCH_MESSAGES", default=1000)
INGEST_BATCH_SECONDS: float = env.float("INGEST_BATCH_SECONDS", default=0.005)
INGEST_MAX_PAYLOAD: int = env.int("INGEST_MAX_PAYLOAD", default=64 * 1024)
INGEST_LIVE_SECONDS: float = env.float("INGEST_LIVE_SECONDS", default=300.0)
INGEST_FUTURE_SECONDS: float = env.float("INGEST_FUTURE_SECONDS", default=300.0)
# The earliest day of a device time; empty: the day of the set-up, less 24 months.
INGEST_EARLIEST_DATE = environment.optional_date("INGEST_EARLIEST_DATE", env.str("INGEST_EARLIEST_DATE", default=""))
INGEST_SPEC_TTL: float = env.float("INGEST_SPEC_TTL", default=30.0)
INGEST_UNMAPPED_SERIES: int = env.int("INGEST_UNMAPPED_SERIES", default=100)
INGEST_WATCHDOG_SECONDS: float = env.float("INGEST_WATCHDOG_SECONDS", default=120.0)

# Limits of tenants without a plan and own limits; 0: unlimited. Rates are messages per second.
TENANT_LIMITS: dict[str, float] = {
    "tenant_rate": env.float("LIMIT_TENANT_RATE", default=0.0),
    "device_rate": env.float("LIMIT_DEVICE_RATE", default=0.0),
    "tenant_backfill_rate": env.float("LIMIT_TENANT_BACKFILL_RATE", default=0.0),
    "device_backfill_rate": env.float("LIMIT_DEVICE_BACKFILL_RATE", default=0.0),
    "tenant_refusal_rate": env.float("LIMIT_TENANT_REFUSAL_RATE", default=200.0),
    "device_refusal_rate": env.float("LIMIT_DEVICE_REFUSAL_RATE", default=20.0),
    "daily_quota": env.int("LIMIT_DAILY_QUOTA", default=0),
    "overflow_megabytes": env.int("LIMIT_OVERFLOW_MEGABYTES", default=2048),
}
# Quotas of tenants without a plan and own quotas; 0: no limit. Objects above a new quota stay.
TENANT_QUOTAS: dict[str, int] = {
    "max_devices": env.int("QUOTA_DEVICES", default=100_000),
    "max_components": env.int("QUOTA_COMPONENTS", default=500_000),
    "max_hardware_models": env.int("QUOTA_HARDWARE_MODELS", default=1000),
    "max_component_types": env.int("QUOTA_COMPONENT_TYPES", default=1000),
    "max_metrics": env.int("QUOTA_METRICS", default=10_000),
    "max_maintenance_windows": env.int("QUOTA_MAINTENANCE_WINDOWS", default=10_000),
    "max_api_keys": env.int("QUOTA_API_KEYS", default=200),
    "max_memberships": env.int("QUOTA_MEMBERSHIPS", default=500),
}
LIMIT_BURST_SECONDS: float = env.float("LIMIT_BURST_SECONDS", default=10.0)
LIMIT_BACKOFF_SECONDS: float = env.float("LIMIT_BACKOFF_SECONDS", default=30.0)

# --- Storage ------------------------------------------------------------------------------------------------

# Days of readings are packed so many days after their end; 0: never.
READINGS_PACK_AFTER_DAYS: int = env.int("READINGS_PACK_AFTER_DAYS", default=7)
# The quarantine of each tenant, and of unrouted messages; 0: unlimited. Of one source and reason so many
# different messages a day are stored, and the others counted.
QUARANTINE_DAYS: int = env.int("QUARANTINE_DAYS", default=90)
QUARANTINE_MEGABYTES: int = env.int("QUARANTINE_MEGABYTES", default=256)
QUARANTINE_SOURCE_MESSAGES: int = env.int("QUARANTINE_SOURCE_MESSAGES", default=1500)

# --- Presence -----------------------------------------------------------------------------------------------

PRESENCE_WILL_GRACE_SECONDS: float = env.float("PRESENCE_WILL_GRACE_SECONDS", default=2.0)

# --- Alarms -------------------------------------------------------------------------------------------------

# Of each tenant: rules, open alarms, and new alarms of a rule within a minute, beyond which they are a storm.
ALARM_RULES: int = env.int("ALARM_RULES", default=500)
ALARM_OPEN: int = env.int("ALARM_OPEN", default=50_000)
ALARM_STORM_PER_MINUTE: int = env.int("ALARM_STORM_PER_MINUTE", default=200)
# Readings that are received so long after their own time are of the past.
ALARM_LATE_SECONDS: float = env.float("ALARM_LATE_SECONDS", default=300.0)

# --- Web ----------------------------------------------------------------------------------------------------

LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("ko", _("Korean"))]
LOCALE_PATHS = [BASE_DIR / "locale"]
FORMAT_MODULE_PATH = "config.formats"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = VAR_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
SERVESTATIC_USE_FINDERS = True
SERVESTATIC_AUTOREFRESH = DEBUG
SERVESTATIC_ALLOW_ALL_ORIGINS = False

PUBLIC_URL: str = env.str("PUBLIC_URL", default=f"http://localhost:{env.int('HTTP_PORT', default=8000)}")
# Serve tenants under /t/{slug}/ too. They then share one origin with each other; behind TLS each has a host name.
TENANT_PATHS: bool = env.bool("TENANT_PATHS", default=not PUBLIC_URL.startswith("https://"))
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
SESSION_ENGINE = "tenants.services.session_store"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
# Behind TLS; the development server on localhost speaks plain HTTP.
SECURE_COOKIES: bool = env.bool("SECURE_COOKIES", default=PUBLIC_URL.startswith("https://"))
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = LANGUAGE_COOKIE_SECURE = SECURE_COOKIES
# A browser accepts a name with this prefix only from this host, over TLS and for all paths.
_cookie_prefix = "__Host-" if SECURE_COOKIES else ""
SESSION_COOKIE_NAME = f"{_cookie_prefix}sessionid"
CSRF_COOKIE_NAME = f"{_cookie_prefix}csrftoken"
BROWSER_COOKIE_NAME = f"{_cookie_prefix}browser"
CSRF_COOKIE_SAMESITE = LANGUAGE_COOKIE_SAMESITE = "Lax"
LANGUAGE_COOKIE_HTTPONLY = True
# `tenants.security_headers` sets the same on every answer; Django's own checks read these.
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_HSTS_SECONDS: int = env.int("HSTS_SECONDS", default=31_536_000 if SECURE_COOKIES else 0)
X_FRAME_OPTIONS = "DENY"

# The proxies whose X-Forwarded-For and X-Forwarded-Proto are read, as addresses or networks.
TRUSTED_PROXIES = parse_networks(env.list("TRUSTED_PROXIES", default=[]))
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if TRUSTED_PROXIES else None

PASSWORD_HASHERS = [
    "tenants.infrastructure.password_hashing.BoundedArgon2Hasher",
    "tenants.infrastructure.password_hashing.BoundedPBKDF2Hasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "devices.api.access.ApiKeyAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["devices.api.access.TenantAccess"],
    "DEFAULT_RENDERER_CLASSES": ["tenants.api.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["tenants.api.negotiation.JSONParser"],
    "DEFAULT_THROTTLE_CLASSES": ["tenants.infrastructure.throttling.TenantThrottle"],
    "DEFAULT_METADATA_CLASS": None,
    "URL_FORMAT_OVERRIDE": None,
    "DEFAULT_PAGINATION_CLASS": "tenants.api.pagination.LimitOffsetPage",
    "DEFAULT_FILTER_BACKENDS": [
        "devices.api.visibility.VisibilityFilter",
        "tenants.api.filter_backend.StrictFilterBackend",
        "tenants.api.ordering.OrderingBackend",
    ],
    "DEFAULT_SCHEMA_CLASS": "tenants.api.openapi.ProblemAutoSchema",
    "EXCEPTION_HANDLER": "devices.api.errors.answer_exception",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
# The origins whose pages may use the API of every tenant with an API key; a tenant can have more.
CORS_ORIGINS: tuple[str, ...] = parse_origins(env.list("CORS_ORIGINS", default=[]))
# Bearer token of /metrics, which contains tenants' names; without one only requests of this machine are allowed.
METRICS_TOKEN: str = SecretText(env.str("METRICS_TOKEN", default=""))
# Invalid API keys of one address at one process; beyond it only keys that were valid lately are queried. 0: unlimited.
API_KEY_FAILURES_PER_MINUTE: int = env.int("API_KEY_FAILURES_PER_MINUTE", default=100)
# For so long a web process uses a tenant and an API key that it has read before it reads them again; 0: not at all.
ACCESS_CACHE_SECONDS: float = env.float("ACCESS_CACHE_SECONDS", default=1.0)
# Days after which a key ends that is issued without an end; 0: it does not end.
API_KEY_DEFAULT_DAYS: int = env.int("API_KEY_DEFAULT_DAYS", default=0)
# Days before its end from which a key is marked, and administrators see it on the first page.
API_KEY_WARNING_DAYS: int = env.int("API_KEY_WARNING_DAYS", default=14)
# Days for which changed objects are listed by `changed_since`; programs that come later make a new copy.
OBJECT_CHANGE_DAYS: int = env.int("OBJECT_CHANGE_DAYS", default=30)
# For each tenant, of sessions and keys together; 0: unlimited.
API_REQUESTS_PER_MINUTE: int = env.int("API_REQUESTS_PER_MINUTE", default=3000)
# Operations at a time: of each API key or person, of a tenant, and of one web process; 0: unlimited.
CONCURRENCY_LIMITS: dict[str, dict[str, int]] = {
    "event_stream": {
        "key": env.int("STREAMS_PER_KEY", default=20),
        "tenant": env.int("STREAMS_PER_TENANT", default=200),
        "process": env.int("STREAMS_PER_PROCESS", default=2000),
    },
    "export": {
        "key": env.int("EXPORTS_PER_KEY", default=2),
        "tenant": env.int("EXPORTS_PER_TENANT", default=4),
        "process": env.int("EXPORTS_PER_PROCESS", default=12),
    },
    "query": {
        "key": 0,
        "tenant": env.int("QUERIES_PER_TENANT", default=3),
        "process": env.int("QUERIES_PER_PROCESS", default=6),
    },
}
# How long an expensive query waits for its turn.
QUERY_WAIT_SECONDS: float = env.float("QUERY_WAIT_SECONDS", default=5.0)
# Uploaded tables: maximum bytes and rows; up to so many rows are imported in the request, more by a worker.
IMPORT_MAX_BYTES: int = env.int("IMPORT_MAX_BYTES", default=5 * 1024 * 1024)
IMPORT_MAX_ROWS: int = env.int("IMPORT_MAX_ROWS", default=20000)
# Whether a CSV for people begins with a byte order mark, by which Excel recognizes UTF-8.
CSV_BYTE_ORDER_MARK: bool = env.bool("CSV_BYTE_ORDER_MARK", default=True)
# Bodies of more than 64 KB that a web process receives or works on at a time, of one address and together.
LARGE_REQUESTS_PER_ADDRESS: int = env.int("LARGE_REQUESTS_PER_ADDRESS", default=4)
LARGE_REQUESTS_AT_ONCE: int = env.int("LARGE_REQUESTS_AT_ONCE", default=16)
DATA_UPLOAD_MAX_NUMBER_FILES = 5
# An XLSX file is read in a process of its own with these limits: memory in MB, processor time in seconds.
IMPORT_PARSE_MEGABYTES: int = env.int("IMPORT_PARSE_MEGABYTES", default=256)
IMPORT_PARSE_SECONDS: int = env.int("IMPORT_PARSE_SECONDS", default=10)
IMPORT_AT_ONCE: int = env.int("IMPORT_AT_ONCE", default=100)
# Time limit of one statement of aggregates and charts.
QUERY_SECONDS: float = env.float("QUERY_SECONDS", default=20.0)
SPECTACULAR_SETTINGS = {
    "TITLE": "Gwanje API",
    "DESCRIPTION": "Devices, components, metrics, readings, and quarantined messages with their reasons.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "validatorUrl": None},
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "SCHEMA_PATH_PREFIX": r"/api/v1",
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "tenants.api.schema_headers.describe_headers",
        "tenants.api.openapi.require_parameter_values",
        "tenants.api.openapi.remove_unused_schemas",
    ],
    # One set of choices, used by several members.
    "ENUM_NAME_OVERRIDES": {
        "ErrorCodeEnum": "tenants.api.problems.ERROR_CODES",
        "StatusEnum": "devices.models.presence.Status",
        "ApiKeyScopeEnum": "devices.models.access.ApiKey.Scope",
        "ScopeSetEnum": "devices.domain.scopes.SET_NAMES",
        "KindEnum": "devices.api.serializers.whoami.CLIENT_KINDS",
        "CauseEnum": "devices.models.presence.Cause",
        "SuppressedByEnum": "devices.models.presence.SuppressedBy",
        "AlarmKindEnum": "alarms.models.rules.AlarmRule.Kind",
        "AlarmCauseEnum": "alarms.models.episodes.AlarmTransition.Cause",
        "AlarmTransitionStateEnum": "alarms.api.serializers.TRANSITION_STATES",
        "AlarmSuppressionEnum": "alarms.api.serializers.SUPPRESSIONS",
        "RotationStateEnum": "devices.api.serializers.rotation.CAMPAIGN_STATES",
        "RotationMemberStateEnum": "devices.api.serializers.rotation.MEMBER_STATES",
        "AggregateSourceEnum": "telemetry.api.serializers.group_aggregates.SOURCES",
    },
}

# --- Background work ----------------------------------------------------------------------------------------

# The queue is in PostgreSQL: the Redis broker of django-q loses the tasks of a worker that dies.
Q_CLUSTER = {
    "name": "gwanje",
    "orm": "default",
    "broker_class": "tenants.infrastructure.task_broker.TenantBroker",
    # A task that a cluster has taken is not in the order of tenants any more.
    "queue_limit": 1,
    "workers": 2,
    "timeout": 300,
    "retry": 360,
    "max_attempts": 5,
    "ack_failures": True,
    "catch_up": False,
    "label": _("Background tasks"),
}

# --- Logging ------------------------------------------------------------------------------------------------

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {
        "tenant": {"()": "django_tenants.log.TenantContextFilter"},
        "request": {"()": "tenants.infrastructure.request_context.RequestIdFilter"},
    },
    "formatters": {
        "line": {"format": "%(asctime)s %(levelname)s %(name)s [%(schema_name)s] [%(request_id)s] %(message)s"},
    },
    "handlers": {
        "console": {"class": "logging.StreamHandler", "filters": ["tenant", "request"], "formatter": "line"},
    },
    # The access log of uvicorn, with the id of the request.
    "loggers": {"uvicorn.access": {"handlers": ["console"], "level": "INFO", "propagate": False}},
    "root": {"handlers": ["console"], "level": env.str("LOG_LEVEL", default="INFO")},
}

# --- The look of the two admin sites ------------------------------------------------------------------------

UNFOLD = {
    "SITE_TITLE": "Gwanje",
    "SITE_HEADER": "Gwanje",
    "SITE_SYMBOL": "sensors",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda _request: static("gwanje/icon.svg")}],
    "SHOW_LANGUAGES": True,
    "ACCOUNT": {"navigation": [{"title": _("Sessions"), "link": lambda _request: reverse("account")}]},
    "STYLES": [lambda _request: static("gwanje/colors.css"), lambda _request: static("gwanje/admin.css")],
    "SCRIPTS": [lambda _request: static("gwanje/htmx.js")],
}
