"""Lists of mail addresses, and who may get mail at all."""

import re
from collections.abc import Iterable, Sequence

from queryexport.errors import ConfigurationError

SEPARATORS = re.compile(r"[|;]")
ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{}~-]+"
LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
PLAIN = re.compile(rf"(?P<local>{ATOM}(?:\.{ATOM})*)@(?P<domain>{LABEL}(?:\.{LABEL})*)")
# RFC 5321, 4.5.3.1: octets of what is before the @, and of the whole address.
LONGEST_LOCAL, LONGEST = 64, 254


def addresses(text: str) -> list[str]:
    """The addresses between the vertical bars or semicolons."""
    return [address.strip() for address in SEPARATORS.split(text) if address.strip()]


def check(found: Iterable[str], allowed: Sequence[str] = ()) -> None:
    """Raises `ConfigurationError` for the first address that is not plain, or whose domain is not
    `allowed`: `example.com` is that domain alone, `*.example.com` any below it; none allows all.
    """
    for address in found:
        domain = _domain(address)
        if allowed and not any(_covers(pattern, domain) for pattern in allowed):
            raise ConfigurationError(
                f"No mail may go to “{address}”: its domain is not one of those in "
                f"EMAIL_ALLOWED_DOMAINS ({', '.join(allowed)}). Correct the address, or ask the "
                "administrator to add the domain."
            )


def once(*lists: Iterable[str]) -> list[str]:
    """The addresses of all lists in their order, each once; only domains ignore case."""
    by_mailbox: dict[tuple[str, str], str] = {}
    for address in (address for addresses in lists for address in addresses):
        local, _, domain = address.rpartition("@")
        by_mailbox.setdefault((local, domain.lower()), address)
    return list(by_mailbox.values())


def _domain(address: str) -> str:
    plain = PLAIN.fullmatch(address)
    if not plain or len(plain["local"]) > LONGEST_LOCAL or len(address) > LONGEST:
        raise ConfigurationError(
            f"“{address}” is no plain mail address. Enter it like ops@example.com, without a name "
            f"around it{_hint(address)}; separate addresses with |."
        )
    return plain["domain"].lower()


def _hint(address: str) -> str:
    """How a domain with letters beyond ASCII is written, where that is the fault."""
    local, _, domain = address.rpartition("@")
    try:
        plain = f"{local}@{domain.encode('idna').decode()}"
    except UnicodeError:
        return ""
    is_fault = not domain.isascii() and PLAIN.fullmatch(plain)
    return f", and its domain in ASCII, as {plain}" if is_fault else ""


def _covers(pattern: str, domain: str) -> bool:
    pattern = pattern.strip().lower()
    return domain.endswith(pattern[1:]) if pattern.startswith("*.") else domain == pattern
