"""Every setting, from the environment, with a safe default for one machine (README, Configuration).

A wrong value stops the start with one line that names the variable (`portal.lib.env.ConfigError`).
"""

import hashlib
import ipaddress
import logging
import os
import socket
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_database_url
import dj_email_url
from corsheaders.defaults import default_headers
from csp.constants import NONCE, NONE, SELF
from django.templatetags.static import static
from django.utils.translation import gettext_lazy as _

from portal.lib import redaction
from portal.lib.env import ConfigError, Env, kept_secret

env = Env()
BASE_DIR = Path(__file__).resolve().parent.parent
VERSION = "0.1.0"

# --- Where things are ------------------------------------------------------------------------
PORTAL_DATA_DIR = env.path("PORTAL_DATA_DIR", BASE_DIR / ".data")
RUN_DIR = PORTAL_DATA_DIR / "run"  # sockets and locks of the processes of this machine
RUNS_DIR = PORTAL_DATA_DIR / "runs"  # one folder an attempt
MEDIA_ROOT = PORTAL_DATA_DIR / "files"
PORTAL_HOST = env.text("PORTAL_HOST", "127.0.0.1")
PORTAL_PORT = env.number("PORTAL_PORT", 8000, low=1, high=65535)
PORTAL_URL = env.url("PORTAL_URL", f"http://localhost:{PORTAL_PORT}", schemes=("http", "https"))
GATEWAY_PORT = env.number("PORTAL_GATEWAY_PORT", PORTAL_PORT + 1, low=1, high=65535)
GATEWAY_URL = env.url("PORTAL_GATEWAY_URL", f"http://127.0.0.1:{GATEWAY_PORT}", schemes=("http", "https"))
MODEL_PORT = env.number("PORTAL_MODEL_PORT", PORTAL_PORT + 2, low=1, high=65535)
MODEL_URL = f"http://127.0.0.1:{MODEL_PORT}"

# --- Safety ----------------------------------------------------------------------------------
DEBUG = env.flag("DEBUG", False)
_https = PORTAL_URL.startswith("https://")
_portal = urlsplit(PORTAL_URL)
ALLOWED_HOSTS = env.items("ALLOWED_HOSTS") or sorted(
    {_portal.hostname or "", "localhost", "127.0.0.1", "[::1]", PORTAL_HOST} - {"0.0.0.0", "::"}  # noqa: S104
)
CSRF_TRUSTED_ORIGINS = [f"{_portal.scheme}://{_portal.netloc}"]
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = LANGUAGE_COOKIE_SECURE = _https
SESSION_COOKIE_AGE = env.number("SESSION_HOURS", 14 * 24, low=1, high=24 * 365) * 3600  # since it was written to
SESSION_IDLE_SECONDS = env.number("SESSION_IDLE_HOURS", 7 * 24, low=1, high=24 * 365) * 3600  # unused: it ends sooner
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = LANGUAGE_COOKIE_SAMESITE = "Lax"
if _https:
    # Browsers take this prefix from the host itself only, over TLS: no neighbouring host can plant one.
    SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "__Host-sessionid", "__Host-csrftoken"
SECURE_HSTS_SECONDS = 31536000 if _https else 0
# Other hosts of the domain are not ours to bind; who owns them all may.
SECURE_HSTS_INCLUDE_SUBDOMAINS = env.flag("HSTS_INCLUDE_SUBDOMAINS", False)
SECURE_HSTS_PRELOAD = env.flag("HSTS_PRELOAD", False)
if SECURE_HSTS_PRELOAD and not SECURE_HSTS_INCLUDE_SUBDOMAINS:
    raise ConfigError("HSTS_PRELOAD: browsers' lists take whole domains only; set HSTS_INCLUDE_SUBDOMAINS too")
# What `check --deploy` asks for and is decided otherwise: whole domains are not ours to bind (W005, W021), and
# sending people from http to https is the work of the proxy that has the certificate (W008). Without https in
# PORTAL_URL there is nothing to say of it to browsers (W004, W011, W016).
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W008", "security.W021"]
if not _https:
    SILENCED_SYSTEM_CHECKS += ["security.W004", "security.W011", "security.W016"]
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _https else None
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# Nothing inline, nothing from elsewhere. Django admin and the API's documentation add what they cannot do without.
CONTENT_SECURITY_POLICY: dict[str, dict[str, list[Any]]] = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF, NONCE],
        "style-src": [SELF, NONCE],
        "img-src": [SELF, "data:"],
        "connect-src": [SELF],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}
_unused = (
    "accelerometer autoplay browsing-topics camera clipboard-read display-capture encrypted-media fullscreen "
    "gamepad geolocation gyroscope hid idle-detection local-fonts magnetometer microphone midi otp-credentials payment "
    "picture-in-picture publickey-credentials-create publickey-credentials-get screen-wake-lock serial storage-access "
    "usb window-management xr-spatial-tracking"
)
PERMISSIONS_POLICY: dict[str, list[str]] = {
    **{feature: [] for feature in _unused.split()},
    "clipboard-write": ["self"],  # to copy a key
}
# Pages of these origins may call the API with a key; never with our cookies. Empty: this site's own alone.
CORS_ALLOWED_ORIGINS = env.items("CORS_ALLOWED_ORIGINS")
for _origin in map(urlsplit, CORS_ALLOWED_ORIGINS):
    if _origin.scheme not in {"http", "https"} or not _origin.netloc or _origin.path:
        raise ConfigError(f"CORS_ALLOWED_ORIGINS: {_origin.geturl()!r} is no origin; write https://app.example.com")
CORS_URLS_REGEX = r"^/api/"
# Beside what every page may send: to start a run only once, and to change only the version that was read.
CORS_ALLOW_HEADERS = (*default_headers, "if-match", "idempotency-key")
CORS_EXPOSE_HEADERS = ["ETag", "Location", "Retry-After"]
# Bytes of a request, uploads included; more is refused while it arrives.
MAX_BODY_BYTES = env.number("MAX_REQUEST_MB", 10, low=1, high=1000) * 1_000_000
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES
# Requests a minute, counted in the database for all processes together; 0 is no limit.
RATE_LIMIT_USER_PER_MINUTE = env.number("RATE_LIMIT_USER_PER_MINUTE", 1200)
RATE_LIMIT_ADDRESS_PER_MINUTE = env.number("RATE_LIMIT_ADDRESS_PER_MINUTE", 600)  # of who is not signed in
# Whose X-Forwarded-For is believed: addresses or networks of the reverse proxies in front of the portal.
try:
    TRUSTED_PROXIES = [ipaddress.ip_network(item) for item in env.items("PORTAL_TRUSTED_PROXIES")]
except ValueError as exc:
    raise ConfigError(f"PORTAL_TRUSTED_PROXIES: {exc}") from exc

# --- Database: SQLite for one machine, PostgreSQL for teams ------------------------------------
_database_url = env.url("DATABASE_URL", schemes=("sqlite", "postgres", "postgresql"))
try:
    _database = dj_database_url.parse(_database_url or f"sqlite:///{PORTAL_DATA_DIR / 'portal.sqlite3'}")
except (ValueError, KeyError) as exc:
    raise ConfigError(f"DATABASE_URL: {exc}") from exc
PORTAL_PROCESS = env.text("PORTAL_PROCESS")
_options = _database.setdefault("OPTIONS", {})
if "sqlite" in _database["ENGINE"]:
    # Django's deferred default answers "database is locked" at once with several writers.
    _options["transaction_mode"] = "IMMEDIATE"
    _options["timeout"] = 30
    _options["init_command"] = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=30000;"
    _database["CONN_MAX_AGE"] = 60
else:
    # What a connection is asked again and again it plans once: that saves a third of a call's statements.
    _options["server_side_binding"] = True
    _options["prepare_threshold"] = 5
    if PORTAL_PROCESS == "web":
        # Threads come and go under ASGI: a bounded pool instead of a connection each.
        _options["pool"] = {"min_size": 1, "max_size": env.number("PORTAL_DB_POOL", 8, low=1), "timeout": 30}
    elif PORTAL_PROCESS in {"gateway", "runner"}:
        # A few threads of their own keep a connection each (portal.lib.dbthreads); one that broke is replaced.
        _database["CONN_MAX_AGE"] = None
    else:
        # The queue's workers fork, and a pool does not survive a fork.
        _database["CONN_MAX_AGE"] = 60
        _database["CONN_HEALTH_CHECKS"] = True
DATABASES = {"default": _database}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Secrets -----------------------------------------------------------------------------------
_one_machine = "sqlite" in _database["ENGINE"] or _database.get("HOST") in {"", "localhost", "127.0.0.1", "::1"}
SECRET_KEY = env.text("SECRET_KEY")
ENCRYPTION_KEYS = env.items("ENCRYPTION_KEYS")  # the first encrypts, all decrypt
if not (SECRET_KEY and ENCRYPTION_KEYS) and not _one_machine:
    _missing = "ENCRYPTION_KEYS" if SECRET_KEY else "SECRET_KEY"
    raise ConfigError(f"{_missing}: needed when the database is on another machine; set one value for all machines")
SECRET_KEY = SECRET_KEY or kept_secret(PORTAL_DATA_DIR / "secret_key")
ENCRYPTION_KEYS = ENCRYPTION_KEYS or [kept_secret(PORTAL_DATA_DIR / "encryption_key")]
# Seals the audit log; never in the database, so that who has that alone cannot forge it.
AUDIT_KEY = env.text("AUDIT_KEY")
if not AUDIT_KEY and not _one_machine:
    raise ConfigError("AUDIT_KEY: needed when the database is on another machine; set one value for all machines")
AUDIT_KEY = AUDIT_KEY or kept_secret(PORTAL_DATA_DIR / "audit_key")

# --- Channel layer, cache and queue: in this machine, or in Redis -------------------------------
REDIS_URL = env.url("REDIS_URL", schemes=("redis", "rediss", "unix"))
Q_CLUSTER = {
    "name": "portal",
    "workers": env.number("PORTAL_QUEUE_WORKERS", 2, low=1, high=32),
    "timeout": 60,  # rings, schedules and short jobs; a worker that hangs in one is noticed after it
    "retry": 90,  # above the timeout: a task that still runs is not handed out again
    "max_attempts": 3,
    "save_limit": -1,  # keep failures only
    "catch_up": False,
    "label": "Queue",
}
if REDIS_URL:
    CHANNEL_LAYERS = {
        "default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": [REDIS_URL]}}
    }
    CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS_URL}}
    Q_CLUSTER["redis"] = REDIS_URL
else:
    CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 1000}}}
    CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    Q_CLUSTER.update(orm="default", poll=0.1)

# --- Runs ----------------------------------------------------------------------------------------
PORTAL_MAX_RUNS = env.number("PORTAL_MAX_RUNS", 4, low=1, high=1000)
# Runs at once on all machines together; 0 is no limit.
PORTAL_MAX_RUNS_PER_USER = env.number("PORTAL_MAX_RUNS_PER_USER", 0, low=0)
PORTAL_MAX_RUNS_TOTAL = env.number("PORTAL_MAX_RUNS_TOTAL", 0, low=0)
# One runner a data folder: two portals on one machine must not take each other's leases.
_folder = hashlib.sha256(str(PORTAL_DATA_DIR).encode()).hexdigest()[:4]
WORKER_NAME = env.text("PORTAL_WORKER_NAME", f"{socket.gethostname()}-{_folder}")
LEASE_SECONDS = env.number("PORTAL_LEASE_SECONDS", 60, low=5)
# A gateway that is not heard of for so long has died: another one takes over what it was doing.
GATEWAY_LEASE_SECONDS = env.number("PORTAL_GATEWAY_LEASE_SECONDS", 15, low=3)
# Requests to models, in seconds. A small machine under load reads a long prompt for minutes.
LLM_CONNECT_TIMEOUT = env.number("LLM_CONNECT_TIMEOUT", 10, low=1)
LLM_FIRST_TOKEN_TIMEOUT = env.number("LLM_FIRST_TOKEN_TIMEOUT", 300, low=1)
LLM_NEXT_TOKEN_TIMEOUT = env.number("LLM_NEXT_TOKEN_TIMEOUT", 180, low=1)
LLM_TOTAL_TIMEOUT = env.number("LLM_TOTAL_TIMEOUT", 1200, low=1)
LLM_MAX_TRIES = env.number("LLM_MAX_TRIES", 3, low=1, high=20)  # of one model, before its fallbacks
LLM_MAX_TOKENS = env.number("LLM_MAX_TOKENS", 4096, low=1)  # of an answer under a budget, where nobody asks for fewer
LLM_RETRY_MILLISECONDS = env.number("LLM_RETRY_MILLISECONDS", 500)  # before the second try; doubles each time
LLM_RETRY_MAX_WAIT = env.number("LLM_RETRY_MAX_WAIT", 30)  # who asks for a longer pause is not tried again
TOOL_TIMEOUT = env.number("TOOL_TIMEOUT", 30, low=1)
EMBEDDED_MODEL = env.choice("EMBEDDED_MODEL", "qwen2.5-coder-1.5b", ("qwen2.5-coder-1.5b", "smollm2"))
EMBEDDED_MODEL_PATH = env.text("EMBEDDED_MODEL_PATH")
PORTAL_MODEL_DIR = env.path("PORTAL_MODEL_DIR", Path("~/.cache/agent-portal/models"))

# --- People ----------------------------------------------------------------------------------------
APPROVAL_LINK_DAYS = env.number("APPROVAL_LINK_DAYS", 7, low=1, high=365)  # how long a link that answers is good
EMAIL_URL = env.url("EMAIL_URL", schemes=("smtp", "submission", "submit", "file"))  # empty: no mail is sent
DEFAULT_FROM_EMAIL = f"Agent Portal <portal@{_portal.hostname}>"
try:
    globals().update(dj_email_url.parse(EMAIL_URL) if EMAIL_URL else {})
except ValueError as exc:
    raise ConfigError(f"EMAIL_URL: {exc}") from exc
EMAIL_TIMEOUT = globals().get("EMAIL_TIMEOUT") or 10  # seconds; a mail server that hangs holds nobody up for long

# --- The site ------------------------------------------------------------------------------------
INSTALLED_APPS = [
    "unfold.apps.BasicAppConfig",
    "portal.site.apps.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "template_partials",
    "django_htmx",
    "lucide",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "channels",
    "corsheaders",
    "django_q",
    "portal.accounts",
    "crews",
    "executions",
    "projects",
    "portal.site",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "corsheaders.middleware.CorsMiddleware",
    "csp.middleware.CSPMiddleware",
    "django_permissions_policy.PermissionsPolicyMiddleware",
    "portal.lib.middleware.AnswerHeaders",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "portal.lib.middleware.OptionalTrailingSlash",
    "portal.lib.middleware.ReaderZone",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "portal.accounts.oidc.renewal.SessionRenewal",
    "portal.accounts.middleware.Visitor",
    "portal.accounts.middleware.Refusals",
    "portal.accounts.middleware.UserLocale",
    "portal.accounts.throttling.RateLimits",
    "portal.accounts.middleware.DenyByDefault",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]
ROOT_URLCONF = "portal.urls"
ASGI_APPLICATION = "portal.asgi.application"
APPEND_SLASH = False  # OptionalTrailingSlash answers both forms, without a redirect
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
                "portal.site.context.site",
            ],
        },
    }
]
AUTH_USER_MODEL = "accounts.User"
SESSION_ENGINE = "portal.accounts.sessions"
LOGIN_URL = "accounts:sign-in"
LOGIN_REDIRECT_URL = "site:home"
LOGOUT_REDIRECT_URL = "accounts:sign-in"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
# --- Who may enter ---------------------------------------------------------------------------------
SIGN_UP = env.flag("SIGN_UP", False)  # whether strangers may make themselves an account
SIGN_UP_ROLE = env.choice("SIGN_UP_ROLE", "viewer", ("viewer", "user"))  # the role of who does
PASSWORD_RESET_TIMEOUT = 86_400  # seconds; how long a link that sets a password is good
# Everybody is this user, without a password: for developing pages, never for others to reach.
DEVELOPMENT_USER = env.text("PORTAL_DEVELOPMENT_USER")
if DEVELOPMENT_USER and not DEBUG:
    raise ConfigError("PORTAL_DEVELOPMENT_USER: skips sign-in, so it works with DEBUG=1 only; unset it")
# Single sign-on: everything but these addresses the provider says itself (OpenID Connect Discovery).
OIDC_ISSUER = env.url("OIDC_ISSUER", schemes=("http", "https"))  # https://keycloak.example.com/realms/agents
OIDC_NAME = env.text("OIDC_NAME", urlsplit(OIDC_ISSUER).hostname or "")  # what the sign-in page calls the provider
OIDC_CLIENT_ID = env.text("OIDC_CLIENT_ID", "agent-portal")
OIDC_CLIENT_SECRET = env.text("OIDC_CLIENT_SECRET")
OIDC_SCOPES = " ".join(env.text("OIDC_SCOPES", "openid profile email").split())
OIDC_ROLES_FROM = env.choice("OIDC_ROLES_FROM", "access_token", ("access_token", "id_token"))
# The provider's roles and groups → ours; the highest counts. Empty default role: who has none is refused.
_roles = ("viewer", "user", "admin")
OIDC_ROLE_MAP = env.pairs("OIDC_ROLE_MAP", "viewer=viewer,user=user,admin=admin", values=_roles)
OIDC_DEFAULT_ROLE = env.choice("OIDC_DEFAULT_ROLE", "", ("", *_roles))
OIDC_AUDIENCE = env.text("OIDC_AUDIENCE", OIDC_CLIENT_ID)  # of access tokens for the portal
OIDC_AUTHORIZED_PARTIES = env.items("OIDC_AUTHORIZED_PARTIES", OIDC_CLIENT_ID)  # clients whose access tokens count
_signed = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
OIDC_ALGORITHMS = env.items("OIDC_ALGORITHMS", "RS256,PS256,ES256")
OIDC_LEEWAY_SECONDS = env.number("OIDC_LEEWAY_SECONDS", 30, high=300)  # by which clocks may differ
# How often a session in use is renewed there, and how long it lives on while the provider does not answer.
OIDC_RENEW_SECONDS = env.number("OIDC_RENEW_SECONDS", 60, low=10, high=3600)
OIDC_OUTAGE_SECONDS = env.number("OIDC_OUTAGE_SECONDS", 900, low=0, high=86_400)
if OIDC_ISSUER and (not OIDC_CLIENT_SECRET or OIDC_CLIENT_SECRET.startswith("${")):
    # A realm file whose placeholder was not filled in leaves it as the secret, which everybody could guess.
    raise ConfigError("OIDC_CLIENT_SECRET: needed with OIDC_ISSUER; the provider shows it beside the client")
if "openid" not in OIDC_SCOPES.split():
    raise ConfigError("OIDC_SCOPES: must contain openid")
if _unknown := sorted(set(OIDC_ALGORITHMS) - set(_signed)) or (not OIDC_ALGORITHMS and ["nothing"]):
    raise ConfigError(f"OIDC_ALGORITHMS: {', '.join(_unknown)} is not taken; use some of {', '.join(_signed)}")
AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend"]
if OIDC_ISSUER:
    AUTHENTICATION_BACKENDS.append("portal.accounts.oidc.backend.ProviderBackend")
    # Signing out is a form whose answer leads there, and browsers hold redirects to the policy too.
    CONTENT_SECURITY_POLICY["DIRECTIVES"]["form-action"].append("{0.scheme}://{0.netloc}".format(urlsplit(OIDC_ISSUER)))

LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("ko", _("Korean"))]
LOCALE_PATHS = [BASE_DIR / "locale"]
TIME_ZONE = env.text("TIME_ZONE", "UTC")
USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = PORTAL_DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
# The web process collects before it serves, so that names carry a hash and are cached for ever;
# everything else (tests, chores) needs no collected files.
_serves = PORTAL_PROCESS in {"web", "collectstatic"}
WHITENOISE_USE_FINDERS = not _serves
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"
        if _serves
        else "django.contrib.staticfiles.storage.StaticFilesStorage"
    },
}

UNFOLD = {
    "SITE_TITLE": "Agent Portal",
    "SITE_HEADER": "Agent Portal",
    "SITE_SYMBOL": "hub",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda _request: static("img/favicon.svg")}],
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_LANGUAGES": False,
}

# --- The API -------------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "portal.accounts.api.PortalCredentials",
        "portal.accounts.api.PortalSession",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["portal.accounts.api.DeclaredAccess"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["portal.lib.parsing.BoundedJSONParser", "rest_framework.parsers.MultiPartParser"],
    "DEFAULT_PAGINATION_CLASS": "portal.lib.pagination.CursorPages",
    "DEFAULT_FILTER_BACKENDS": [
        "django_filters.rest_framework.DjangoFilterBackend",
        "rest_framework.filters.SearchFilter",
        "portal.lib.pagination.Ordering",
    ],
    "DEFAULT_SCHEMA_CLASS": "portal.lib.schema.Schema",
    "EXCEPTION_HANDLER": "portal.lib.problems.exception_handler",
    "DEFAULT_METADATA_CLASS": None,  # what routes take is told by the schema, not by OPTIONS
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Agent Portal",
    "VERSION": VERSION,
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "SCHEMA_PATH_PREFIX": "/api",
    "DESCRIPTION": (
        "Agents, crews and their runs. Lists are paged by cursor; errors are problem documents (RFC 9457); "
        "every path answers with and without a trailing slash."
    ),
    "ENUM_NAME_OVERRIDES": {
        "CrewStatus": "crews.models.Crew.Status",
        "ExecutionStatus": "executions.status.Status",
        "TaskRunStatus": "executions.models.TaskRun.Status",
        "LLMCallStatus": "executions.models.LLMCall.Status",
        "ApprovalStatus": "executions.models.Approval.Status",
        "InvitationDecision": [("accept", "accept"), ("decline", "decline")],
        "Language": LANGUAGES,
        "ProjectLanguage": "projects.models.Project.Language",
        "ProjectStatus": "projects.status.ProjectStatus",
        "StageName": "projects.models.Stage.Name",
        "DeliverableStatus": "projects.models.Deliverable.Status",
        "ReviewDecision": "projects.models.Review.Decision",
        "FileDifferenceStatus": [("added", "added"), ("removed", "removed"), ("changed", "changed")],
        "PieceKind": [("same", "same"), ("added", "added"), ("removed", "removed")],
    },
}

# --- Logs ----------------------------------------------------------------------------------------
METRICS_TOKEN = env.text("METRICS_TOKEN")
LOG_LEVEL = env.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"))
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": "portal.lib.redaction.RedactingFormatter",
            "format": "%(asctime)s %(levelname)s %(name)s: %(message)s",
        }
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {
        "django.request": {"level": "ERROR"},
        "django.security.csrf": {"level": "ERROR"},  # it writes whole paths, tokens of mailed links among them
        "httpx": {"level": "WARNING"},
        "django-q": {"level": "WARNING"},
        "uvicorn": {"level": "WARNING" if LOG_LEVEL == "INFO" else LOG_LEVEL},
        "asyncio": {"level": "WARNING"},
    },
}
logging.captureWarnings(True)
redaction.know(SECRET_KEY, *ENCRYPTION_KEYS, AUDIT_KEY, OIDC_CLIENT_SECRET, METRICS_TOKEN)
redaction.know_urls(_database_url, REDIS_URL, EMAIL_URL)
# whitenoise hands its files to the server in a form that Django reads at once under ASGI; they are small.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")

# litellm must not download its price list; crewai must not call home.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
