"""Makes certificate authorities and server certificates that live as long as the tests."""

from dataclasses import dataclass
from functools import cached_property

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


@dataclass(frozen=True)
class ServerIdentity:
    """What a TLS server shows: its certificate chain, and its key as PKCS #8, both PEM."""

    chain_pem: str
    key_pem: str


class Authority:
    """A certificate authority of our own, which no other machine trusts."""

    def __init__(self) -> None:
        self._authority = trustme.CA()

    @cached_property
    def pem(self) -> str:
        """The certificate that a client must trust."""
        return self._authority.cert_pem.bytes().decode()

    def identity(self, *names: str) -> ServerIdentity:
        """A certificate for a server under these host names and addresses."""
        issued = self._authority.issue_cert(*names)
        chain = "".join(part.bytes().decode() for part in issued.cert_chain_pems)
        return ServerIdentity(chain, _pkcs8(issued.private_key_pem.bytes()))


def _pkcs8(pem: bytes) -> str:
    """The key in the one form that Java reads."""
    key = load_pem_private_key(pem, password=None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
