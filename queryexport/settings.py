"""The one settings file; every value that differs between installations comes from the environment.

`.env.example` explains each variable. A `.env` file beside `manage.py` is read when there is one.
"""

from pathlib import Path

import environ

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.FileAwareEnv()
env.read_env(BASE_DIR / ".env")

DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env.str("SECRET_KEY")
SECRET_KEY_FALLBACKS = env.list("SECRET_KEY_FALLBACKS", default=[])
FIELD_ENCRYPTION_KEYS = env.list("FIELD_ENCRYPTION_KEYS")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])

# What an installation writes, unless told otherwise.
DATA_DIR = BASE_DIR / env.str("DATA_DIR", default="var")
EXPORT_ROOT = BASE_DIR / env.str("EXPORT_ROOT", default=str(DATA_DIR / "exports"))
# Rows that Kafka did not take: the first of each run in the database, the others in files.
UNDELIVERED_IN_DATABASE = env.int("UNDELIVERED_IN_DATABASE", default=1000)
SPOOL_ROOT = BASE_DIR / env.str("SPOOL_ROOT", default=str(DATA_DIR / "spool"))
# Where people reach the admin, for links in mails, for example https://exports.example.com.
SITE_URL = env.str("SITE_URL", default="").rstrip("/")
UNDELIVERED_ROOT = BASE_DIR / env.str("UNDELIVERED_ROOT", default=str(DATA_DIR / "undelivered"))

INSTALLED_APPS = [
    "django_celery_beat",  # Before scheduling, which takes its tables out of the admin.
    "scheduling",
    "kafka_sink",
    "queryexport",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.forms",
    "ninja",  # Its pages of the API, from this host.
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "queryexport.urls"
WSGI_APPLICATION = "queryexport.wsgi.application"
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

# Database -------------------------------------------------------------------------------------
DATABASES = {"default": env.db("DATABASE_URL", default=f"sqlite:///{DATA_DIR}/queryexport.sqlite3")}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # WAL lets pages be read while a run writes; IMMEDIATE takes the write lock at the start of a
    # transaction, where waiting helps, and not in its middle, where it fails.
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
FORM_RENDERER = "django.forms.renderers.TemplatesSetting"  # Widgets in templates/, too.
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Celery ---------------------------------------------------------------------------------------
CELERY_BROKER_URL = env.str("CELERY_BROKER_URL", default="folder://localhost")
if CELERY_BROKER_URL == "folder://localhost":
    CELERY_BROKER_TRANSPORT = "queryexport.folder_transport:Transport"
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "data_folder_in": DATA_DIR / "celery",
        "data_folder_out": DATA_DIR / "celery",
        "control_folder": DATA_DIR / "celery",
    }
elif CELERY_BROKER_URL.startswith(("redis", "sentinel")):
    # Longer than any run: a message that was not acknowledged by then goes to another worker.
    CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 25 * 60 * 60}
    CELERY_WORKER_DISABLE_PREFETCH = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # A worker waits for its broker for ever.
CELERY_BEAT_SCHEDULER = "scheduling.scheduler:Scheduler"
CELERY_BEAT_SYNC_EVERY = 1
# A worker consumes all of them unless told otherwise by -Q.
CELERY_TASK_QUEUES = {
    name: {"exchange": "query-export", "routing_key": name} for name in ("service", "short", "long")
}
CELERY_TASK_DEFAULT_QUEUE = "short"
CELERY_TASK_ROUTES = {
    name: {"queue": "service"} for name in ("scheduling.sweep", "scheduling.retention")
}
# One that could not be run in time is not worth running: the next one does it all. In time by the
# worker's clock, which may differ from beat's.
CELERY_BEAT_SCHEDULE = {
    "sweep": {"task": "scheduling.sweep", "schedule": 30.0, "options": {"expire_seconds": 300}},
    "retention": {
        "task": "scheduling.retention",
        "schedule": 3600.0,
        "options": {"expire_seconds": 3600},
    },
}
CELERY_BEAT_CRON_STARTING_DEADLINE = 3600
CELERY_TIMEZONE = env.str("TIME_ZONE", default="UTC")
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = False  # Our rows remember what is owed; a broker must not run it twice.
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
# How long runs may go on once their worker was told to stop by SIGTERM.
SHUTDOWN_GRACE_SEC = env.float("SHUTDOWN_GRACE_SEC", default=60.0)
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
CELERY_WORKER_HIJACK_ROOT_LOGGER = False

# Mail -----------------------------------------------------------------------------------------
globals().update(env.email_url("EMAIL_URL", default=f"filemail:///{DATA_DIR}/mail"))
if globals()["EMAIL_BACKEND"] == "django.core.mail.backends.smtp.EmailBackend":
    EMAIL_BACKEND = "queryexport.mail.SMTPBackend"
# For connecting, each answer, and each block of bytes; for all of it, and longer if it is large;
# for the answer to the whole message, where haste makes copies: RFC 5321, 4.5.3.2.6.
EMAIL_TIMEOUT = env.int("EMAIL_TIMEOUT_SEC", default=30)
EMAIL_TOTAL_SEC = env.int("EMAIL_TOTAL_SEC", default=600)
EMAIL_ANSWER_SEC = env.int("EMAIL_ANSWER_SEC", default=600)
EMAIL_MOST_BYTES = env.int("EMAIL_MOST_BYTES", default=25 * 1024 * 1024)
EMAIL_ALLOWED_DOMAINS = env.list("EMAIL_ALLOWED_DOMAINS", default=[])
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="query-export@localhost")

# Times, language, pages -----------------------------------------------------------------------
TIME_ZONE = CELERY_TIMEZONE
USE_TZ = True
# A backfill has a box for each of up to 1,000 slots.
DATA_UPLOAD_MAX_NUMBER_FIELDS = 2000
LANGUAGE_CODE = "en"
FORMAT_MODULE_PATH = ["queryexport.locale_formats"]

STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = DEBUG
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}

# Security -------------------------------------------------------------------------------------
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
HTTPS = env.bool("HTTPS", default=not DEBUG)
SECURE_SSL_REDIRECT = HTTPS
SECURE_HSTS_SECONDS = env.int("SECURE_HSTS_SECONDS", default=31_536_000 if HTTPS else 0)
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS
SECURE_HSTS_PRELOAD = HTTPS
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_AGE = 8 * 60 * 60
X_FRAME_OPTIONS = "DENY"
DATA_UPLOAD_MAX_MEMORY_SIZE = 16_000_000  # A batch for the API is at most 10 MB.

# Logs -----------------------------------------------------------------------------------------
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"format": "{asctime} {levelname} {name} {message}", "style": "{"},
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": env.str("LOG_LEVEL", default="INFO")},
}
