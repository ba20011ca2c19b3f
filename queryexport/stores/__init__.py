"""Folders on servers that a file can go to: S3, SFTP and SMB, each named by one URL.

| | a file appears | replaces | refuses or numbers |
|---|---|---|---|
| S3 | by one PUT, or by the last request of a multipart upload | always | `If-None-Match: *` |
| SFTP | by a rename of a file beside it | needs `posix-rename@openssh.com` | SFTP's own rename |
| SMB | by a rename of a file beside it | unless somebody has it open | a rename that fails |

So at every moment there is the old file or the complete new one, and the old one if anything fails.
The URL goes through fsspec's schemes, but not through fsspec: each module says why it uses the
driver below.
"""

from queryexport.stores.address import check_name, check_url, parse, redacted
from queryexport.stores.opening import open_store
from queryexport.stores.probe import Step, probe
from queryexport.stores.upload import Store, Upload, check_rule

__all__ = [
    "Step",
    "Store",
    "Upload",
    "check_name",
    "check_rule",
    "check_url",
    "open_store",
    "parse",
    "probe",
    "redacted",
]
