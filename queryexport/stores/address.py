"""The URL of a folder on a server: read, checked, and shown without its secrets."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from queryexport.encryption import VARIABLE, Secret
from queryexport.errors import ConfigurationError

EXAMPLES = {
    "s3": "s3://bucket/folder?region=eu-south-1",
    "sftp": "sftp://user:${SFTP_PASSWORD}@host:22/folder",
    "smb": "smb://user:${SMB_PASSWORD}@server/share/folder",
}
OPTIONS = {
    "s3": frozenset({"endpoint_url", "region", "addressing", "ca"}),
    "sftp": frozenset({"key", "passphrase", "known_hosts"}),
    "smb": frozenset({"domain", "encrypt"}),
}
CHOICES = {"addressing": ("auto", "path", "virtual"), "encrypt": ("yes", "no")}
SECRET_OPTIONS = frozenset({"passphrase"})
USUAL_PORTS = {"s3": None, "sftp": 22, "smb": 445}
# Whoever may edit an item must not have these sent to a server of their own as a password.
OWN_VARIABLES = frozenset(
    {"SECRET_KEY", "SECRET_KEY_FALLBACKS", "FIELD_ENCRYPTION_KEYS", "DATABASE_URL"}
    | {"CELERY_BROKER_URL", "EMAIL_URL"}
)
OPTION_NAME = re.compile(r"[a-z_]{1,20}")
PRIVATE_KEY = "-----BEGIN"
REFUSED_BY_SMB = frozenset('<>:"|?*')
LONGEST_KEY_BYTES = 1024  # Of an object in S3; the other two end sooner, and say so themselves.


@dataclass(frozen=True)
class Address:
    """A folder on a server. `host` is the bucket for S3, and `folders` begin with the share for
    SMB; `${ENV_VAR}` references are still in it until `resolved`.
    """

    scheme: str
    host: str
    port: int | None = None
    user: str = ""
    password: Secret = field(default_factory=lambda: Secret(""))
    folders: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    def resolved(self, environ: Mapping[str, str] | None = None) -> "Address":
        """The same with every `${ENV_VAR}` replaced.

        Raises `ConfigurationError` when a variable is not set.
        """
        options = {name: Secret(text).reveal(environ) for name, text in self.options.items()}
        return replace(
            self,
            user=Secret(self.user).reveal(environ),
            password=Secret(self.password.reveal(environ)),
            options=options,
        )

    def place(self, name: str = "") -> str:
        """The URL of the folder, or of a file in it, for people: no secret, and no options."""
        login = f"{self.user}@" if self.user and self.scheme != "s3" else ""
        port = f":{self.port}" if self.port and self.port != USUAL_PORTS[self.scheme] else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return "/".join(
            [f"{self.scheme}://{login}{host}{port}", *self.folders, *filter(None, [name])]
        )


def check_url(url: str) -> None:
    """Raises `ConfigurationError` when the URL can't be that of a store, or holds a secret."""
    parse(url)


def parse(url: str) -> Address:
    """The folder that the URL names; raises `ConfigurationError`, whose text repeats no secret."""
    parts, port = _split(url)
    scheme = parts.scheme
    login, _, host = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    address = Address(
        scheme,
        host if scheme == "s3" else parts.hostname or "",
        port,
        unquote(user),
        Secret(unquote(password)),
        tuple(unquote(part) for part in parts.path.split("/") if part),
    )
    # Before the options: what comes after a “?” may be the rest of a password.
    _check_host(address)
    _check_login(address)
    address = replace(address, options=_options(scheme, parts.query))
    _check_endpoint(address.options.get("endpoint_url", ""))
    _check_secrets(address)
    _check_folders(address, parts.path)
    return address


def redacted(url: str) -> str:
    """The URL without password and options, whatever may be wrong with it."""
    try:
        return parse(url).place()
    except ConfigurationError:
        pass
    # Where it can't be read, nobody knows what of it is the password.
    scheme, found, rest = url.partition("://")
    if not found:
        return "The URL"
    shown = rest.rpartition("@")[2].partition("?")[0] if "@" in rest else ""
    return _printable(f"{scheme}://…{'@' if shown else ''}{shown}")


def check_name(scheme: str, name: str) -> None:
    """Raises `ConfigurationError` when no file of a store can have the name."""
    if name in ("", ".", "..") or set(name) & set("/\\") or _has_controls(name):
        raise ConfigurationError(
            f"The file name “{_printable(name)}” cannot be used: it is empty, or holds a slash, a "
            "control character or only dots. Change the item's file name."
        )
    if scheme == "smb" and set(name) & REFUSED_BY_SMB:
        raise ConfigurationError(
            f"The file name “{name}” cannot be used on an SMB share, which takes none of "
            f"{' '.join(sorted(REFUSED_BY_SMB))}. Change the item's file name."
        )


def _split(url: str) -> tuple[SplitResult, int | None]:
    # urlsplit drops line breaks and tabs without a word.
    if _has_controls(url) or url != url.strip():
        raise ConfigurationError(
            "The URL holds a blank at an end, a line break, a NUL or another control character. "
            "Enter it again."
        )
    if "#" in url:
        raise ConfigurationError("The URL holds a “#”. Write it as %23.")
    try:
        parts = urlsplit(url)
        port = parts.port if parts.scheme in ("sftp", "smb") else None
    except ValueError as error:
        raise ConfigurationError(
            "The URL cannot be read: its host or port is not one. Write special characters in it "
            f"as %40 and the like. {_examples()}"
        ) from error
    if parts.scheme not in EXAMPLES:
        raise ConfigurationError(
            f"The URL begins with “{_printable(parts.scheme)[:20]}:”, but files go only to s3, "
            f"sftp and smb. {_examples()}"
        )
    return parts, port


def _options(scheme: str, query: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    known = ", ".join(sorted(OPTIONS[scheme]))
    if unknown := sorted(set(options) - OPTIONS[scheme]):
        raise ConfigurationError(
            f"The option {_option(unknown[0])} of the {scheme} URL is not known. Known are {known}."
        )
    if len(options) < len(pairs) or not all(options.values()):
        raise ConfigurationError(
            f"An option of the {scheme} URL is empty or stands there twice. Known are {known}, "
            "each once and with a value."
        )
    for name, choices in CHOICES.items():
        if options.get(name, choices[0]) not in choices:
            raise ConfigurationError(
                f"The option “{name}” of the {scheme} URL is one of {', '.join(choices)}."
            )
    return options


def _option(name: str) -> str:
    """Its name if it looks like one: it may be the rest of a password."""
    return f"“{name}”" if OPTION_NAME.fullmatch(name) else "after the “?”"


def _check_host(address: Address) -> None:
    what = "bucket" if address.scheme == "s3" else "host"
    if not address.host or "${" in address.host or (what == "bucket" and ":" in address.host):
        raise ConfigurationError(
            f"The {address.scheme} URL names no {what}. Write it as {EXAMPLES[address.scheme]}."
        )
    if not address.user and address.scheme != "s3":
        raise ConfigurationError(
            f"The {address.scheme} URL names no user. Write it as {EXAMPLES[address.scheme]}."
        )


def _check_endpoint(endpoint: str) -> None:
    if endpoint and not _is_endpoint(endpoint):
        raise ConfigurationError(
            "The option “endpoint_url” is the address of an S3 server and nothing more: "
            "endpoint_url=https%3A%2F%2Fminio.example.com%3A9000, without a user or password."
        )


def _is_endpoint(url: str) -> bool:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return False
    return bool(known) and "@" not in url and not parts.query and not parts.fragment


def _check_login(address: Address) -> None:
    _check_reference("password", address.password.stored(), address.scheme)
    if address.scheme == "s3" and bool(address.user) != bool(address.password):
        raise ConfigurationError(
            "The s3 URL has an access key without its secret, or the other way round. Write both, "
            "s3://${S3_KEY}:${S3_SECRET}@bucket/folder, or neither: then the AWS configuration of "
            "the worker is used."
        )


def _check_reference(name: str, text: str, scheme: str) -> None:
    if text and not VARIABLE.fullmatch(text):
        raise ConfigurationError(
            f"The {name} stands in the {scheme} URL itself. Put it into an environment variable of "
            "the worker and write ${NAME}, for example ${EXPORT_PASSWORD}."
        )


def _check_secrets(address: Address) -> None:
    for name in sorted(SECRET_OPTIONS):
        _check_reference(name, address.options.get(name, ""), address.scheme)
    if PRIVATE_KEY in (key := address.options.get("key", "")):
        _check_reference("key", key, address.scheme)
    texts = [address.user, address.password.stored(), *address.options.values()]
    named = {name for text in texts for name in VARIABLE.findall(text)}
    if own := sorted(named & OWN_VARIABLES):
        raise ConfigurationError(
            f"The {address.scheme} URL refers to {own[0]}, which is a secret of this product "
            "itself. Put the server's password into a variable of its own."
        )


def _check_folders(address: Address, path: str) -> None:
    bad = {".", ".."} & set(address.folders)
    if bad or "${" in path or "@" in path or any(map(_is_unsafe, address.folders)):
        raise ConfigurationError(
            f"The folder in the {address.scheme} URL cannot be used: it holds “..”, “.”, a "
            "backslash, an encoded slash, a control character, an “@” (write it as %40) or a "
            "${NAME} (which works for user, password and options)."
        )
    if address.scheme == "smb" and not address.folders:
        raise ConfigurationError(f"The smb URL names no share. Write it as {EXAMPLES['smb']}.")
    if address.scheme == "smb" and set("".join(address.folders)) & REFUSED_BY_SMB:
        raise ConfigurationError(
            "The folder in the smb URL holds a character that Windows takes in no name: "
            f"{' '.join(sorted(REFUSED_BY_SMB))}."
        )
    if len("/".join(address.folders).encode()) > LONGEST_KEY_BYTES // 2:
        raise ConfigurationError(
            f"The folder in the {address.scheme} URL is longer than {LONGEST_KEY_BYTES // 2} bytes."
        )


def _is_unsafe(folder: str) -> bool:
    return _has_controls(folder) or bool(set(folder) & set("/\\"))


def _has_controls(text: str) -> bool:
    return any(unicodedata.category(character).startswith("C") for character in text)


def _printable(text: str) -> str:
    return "".join("�" if _has_controls(character) else character for character in text)


def _examples() -> str:
    return f"Write for example {' or '.join(EXAMPLES.values())}."
