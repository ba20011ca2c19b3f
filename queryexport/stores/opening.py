"""Which store a URL stands for."""

from queryexport.errors import ConfigurationError
from queryexport.stores.address import parse
from queryexport.stores.s3 import S3Store
from queryexport.stores.sftp import SftpStore
from queryexport.stores.smb import SmbStore
from queryexport.stores.upload import Store

TIMEOUT_SEC = 30.0


def open_store(url: str, *, timeout_sec: float = TIMEOUT_SEC) -> Store:
    """The store, not yet connected.

    Raises `ConfigurationError` when the URL is not that of a store, one of its environment
    variables is not set, or its driver is not installed.
    """
    shown = parse(url)
    address = shown.resolved()
    match address.scheme:
        case "s3":
            return S3Store(address, shown, timeout_sec=timeout_sec)
        case "sftp":
            return SftpStore(address, shown, timeout_sec=timeout_sec)
        case "smb":
            return SmbStore(address, shown, timeout_sec=timeout_sec)
    raise ConfigurationError(f"There is no store for “{address.scheme}:”.")
