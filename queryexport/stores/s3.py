"""A folder of an S3 bucket (AWS, MinIO, Ceph and others), by botocore.

fsspec's s3fs and the aiobotocore below it end on botocore too, but work in an event loop that lives
as long as the process, repeat a conditional request whose answer was lost (and then take their own
object for somebody else's), and cannot be given up in the middle.

An object appears whole or not at all: by one PUT, or in parts that one last request puts together.
The server checks the MD5 of each before it takes it. Older versions of an object are the bucket's
business. Parts of an upload whose worker was killed are seen by nobody but cost: let the bucket end
incomplete uploads by a lifecycle rule.
"""

import logging
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import md5
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

from queryexport.errors import ConfigurationError, DeliveryError, ExportError
from queryexport.sinks.file import OnExisting
from queryexport.stores.address import LONGEST_KEY_BYTES, Address
from queryexport.stores.folder import new_part
from queryexport.stores.hand import GRACE_SEC, Hand, Overdue, connected
from queryexport.stores.upload import Upload, driver, taken, unsure, words

logger = logging.getLogger(__name__)

PART_BYTES = 8 << 20
MOST_PARTS = 10_000
PART_TRIES = 3
PART_SEC = 600.0  # For one part or the last request; silence ends it sooner.
HTTPS_PORT, HTTP_PORT = 443, 80

BAD_LOGIN = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
    | {"AuthorizationHeaderMalformed", "RequestTimeTooSkewed", "InvalidClientTokenId"}
)
MAY_PASS = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "InternalError"}
    | {"ServiceUnavailable", "RequestTimeout", "OperationAborted", "ConditionalRequestConflict"}
    | {"BadDigest", "TooManyRequests"}
)


class S3Store:
    """One folder of one bucket. All but `sever` in one thread."""

    def __init__(self, address: Address, shown: Address, *, timeout_sec: float) -> None:
        self._session = driver("botocore.session", extra="s3")
        self._config = driver("botocore.config", extra="s3")
        self._errors = driver("botocore.exceptions", extra="s3")
        self._address = address
        self._shown = shown
        self._timeout_sec = timeout_sec
        self._client: Any = None
        self._severed = False

    @property
    def server(self) -> tuple[str, int]:
        url = self._address.options.get("endpoint_url") or str(self._made().meta.endpoint_url)
        parts = urlsplit(url)
        usual = HTTP_PORT if parts.scheme == "http" else HTTPS_PORT
        return parts.hostname or "", parts.port or usual

    def twin(self) -> "S3Store":
        return S3Store(self._address, self._shown, timeout_sec=self._timeout_sec)

    def place(self, name: str) -> str:
        return self._shown.place(name)

    @property
    def greeting(self) -> str:
        return "There is an access key; what it may do is seen by writing."

    def connect(self) -> None:
        if not self._address.user and self._session.get_session().get_credentials() is None:
            raise self._errors.NoCredentialsError
        self._client = self._made()

    def _made(self) -> Any:
        options = self._address.options
        config = self._config.Config(
            connect_timeout=self._timeout_sec,
            read_timeout=self._timeout_sec,
            # A conditional request must not be repeated by itself: see above.
            retries={"mode": "standard", "total_max_attempts": 1},
            s3={"addressing_style": options.get("addressing", "auto")},
            # Each request has its Content-MD5, which every server knows.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return self._session.get_session().create_client(
            "s3",
            region_name=options.get("region"),
            endpoint_url=options.get("endpoint_url"),
            verify=options.get("ca"),
            aws_access_key_id=self._address.user or None,
            aws_secret_access_key=self._address.password.stored() or None,
            config=config,
        )

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def sever(self) -> None:
        """What is under way ends by its body, or by the timeout of its socket."""
        self._severed = True

    def try_folder(self) -> None:
        key = self._key(new_part())
        content = b"Query Export can write here.\n"
        where = {"Bucket": self._address.host, "Key": key}
        self._client.put_object(Body=content, ContentMD5=_md5(content), **where)
        self._client.delete_object(**where)

    def put(self, upload: Upload, hand: Hand) -> str:
        for name in upload.names():
            self._check_key(name)
            if upload.on_existing is not OnExisting.REPLACE and hand.do(self.exists, name):
                continue
            try:
                self._put(name, upload, hand)
            except self._errors.ClientError as error:
                if not _is_taken(error):
                    raise
                continue
            return name
        raise taken(self.place(upload.name), upload.on_existing)

    def _put(self, name: str, upload: Upload, hand: Hand) -> None:
        upload.file.seek(0)
        if upload.size_bytes <= PART_BYTES:
            self._put_whole(name, upload, hand)
        else:
            _Parts(self, name, upload, hand).send()

    def _put_whole(self, name: str, upload: Upload, hand: Hand) -> None:
        content = upload.file.read()
        upload.last_check()
        request = {
            **self.target(name),
            **self.condition(upload),
            "ContentMD5": _md5(content),
            "ContentType": upload.mime_type,
        }

        def put() -> object:
            return self._client.put_object(Body=self.body(content), **request)

        self.publish(put, upload, name=name, etag=_hex(content), hand=hand)

    def publish(
        self, call: Callable[[], object], upload: Upload, *, name: str, etag: str, hand: Hand
    ) -> None:
        """Makes the request that publishes the object; if its answer is lost, looks for it."""
        try:
            hand.do(call, stoppable=False, limit_sec=PART_SEC)
        except Exception as error:
            if not self.is_lost(error):
                raise
            if self._etag_there(upload, name, error) == etag:
                return
            if isinstance(error, Overdue | self._errors.ReadTimeoutError):
                raise unsure(upload, self.place(name), error) from error
            raise

    def _etag_there(self, upload: Upload, name: str, error: Exception) -> str:
        """By a new connection, because the old one may be the reason."""
        twin = self.twin()
        try:
            with connected(twin, lambda: None, limit_sec=GRACE_SEC) as hand:
                return hand.do(twin.etag, name)
        except Exception as second:
            raise unsure(upload, self.place(name), error, second) from error

    def etag(self, name: str) -> str:
        """The object's; empty if there is none."""
        try:
            return str(self._client.head_object(**self.target(name))["ETag"]).strip('"')
        except self._errors.ClientError as error:
            if _status(error) != 404:
                raise
        return ""

    def exists(self, name: str) -> bool:
        """Whether it is seen; the condition of the last request decides."""
        try:
            return bool(self.etag(name))
        except self._errors.ClientError as error:
            if _status(error) != 403:
                raise
        return False  # An account may be allowed to write and not to look.

    def target(self, name: str) -> dict[str, str]:
        return {"Bucket": self._address.host, "Key": self._key(name)}

    def condition(self, upload: Upload) -> dict[str, str]:
        return {} if upload.on_existing is OnExisting.REPLACE else {"IfNoneMatch": "*"}

    def body(self, content: bytes) -> BytesIO:
        """Sent in small pieces, each with a timeout of its own."""
        return _Body(content, lambda: self._severed)

    @property
    def client(self) -> Any:
        return self._client

    def is_lost(self, error: Exception) -> bool:
        """Whether nobody knows what became of a request that was sent."""
        return isinstance(error, Overdue | self._errors.HTTPClientError)

    def may_pass(self, error: Exception) -> bool:
        """Whether the same request may pass a moment later."""
        if isinstance(error, self._errors.ClientError):
            return _code(error) in MAY_PASS or (_status(error) >= 500 and _status(error) != 501)
        if isinstance(error, self._errors.SSLError):
            return False
        return self.is_lost(error) or isinstance(error, self._errors.ConnectionError)

    def explained(self, error: Exception) -> ExportError | None:
        where, why = self.place(""), words(error, self._address)
        match error:
            case self._errors.NoCredentialsError() | self._errors.PartialCredentialsError():
                return ConfigurationError(
                    f"There is no access key for {where}. Write it into the URL as "
                    "s3://${S3_KEY}:${S3_SECRET}@bucket/folder, or give the worker an AWS "
                    "configuration (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role)."
                )
            case self._errors.ClientError() if _code(error) == "NoSuchBucket":
                return DeliveryError(
                    f"The bucket {self._address.host} does not exist: {why}. Nothing was "
                    "delivered. Create it, or correct the URL and its region."
                )
            case self._errors.ClientError() if _code(error) in BAD_LOGIN:
                return DeliveryError(
                    f"The S3 server refused the access key for {where}: {why}. Nothing was "
                    "delivered. Check the key, its secret and the region in the URL."
                )
            case self._errors.ClientError() if _status(error) == 403:
                return DeliveryError(
                    f"The access key may not write to {where}: {why}. Nothing was delivered. "
                    "Give it s3:PutObject and s3:AbortMultipartUpload there (to refuse or number, "
                    "also s3:GetObject)."
                )
            case self._errors.ClientError() if _status(error) == 501:
                return DeliveryError(
                    f"The S3 server of {where} can't do this: {why}. Nothing was delivered. If the "
                    "item refuses or numbers existing files, the server must know If-None-Match."
                )
            case self._errors.ClientError():
                return DeliveryError(
                    f"The S3 server refused to write to {where}: {why}. Nothing was published, and "
                    "the object there, if any, is as it was.",
                    retryable=self.may_pass(error),
                )
        if not isinstance(error, OSError | self._errors.BotoCoreError):
            return None
        return DeliveryError(
            f"The S3 server of {where} could not be reached, or the connection broke: {why}. "
            "Nothing was published, and the object there, if any, is as it was. Check "
            "endpoint_url, region and network.",
            retryable=self.may_pass(error),
        )

    def _key(self, name: str) -> str:
        return "/".join([*self._address.folders, name])

    def _check_key(self, name: str) -> None:
        if len(self._key(name).encode()) > LONGEST_KEY_BYTES:
            raise ConfigurationError(
                f"{self.place(name)} is longer than the {LONGEST_KEY_BYTES} bytes that S3 allows. "
                "Shorten the folder or the item's file name."
            )


@dataclass
class _Parts:
    """A multipart upload, which is ended in every case but that of a killed worker."""

    store: S3Store
    name: str
    upload: Upload
    hand: Hand
    digests: list[bytes] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)
    upload_id: str = ""

    def send(self) -> None:
        self._begin()
        try:
            self._send_parts()
            self.upload.last_check()
            self.store.publish(
                self._complete, self.upload, name=self.name, etag=self._etag(), hand=self.hand
            )
        except BaseException as error:
            if not self._aborted():
                error.add_note(
                    f"The parts of upload {self.upload_id} to {self.store.place(self.name)} could "
                    "not be removed. Abort it there, or let the bucket end incomplete uploads."
                )
            raise

    def _begin(self) -> None:
        begun = self.hand.do(
            lambda: self.store.client.create_multipart_upload(
                ContentType=self.upload.mime_type, **self.store.target(self.name)
            )
        )
        self.upload_id = begun["UploadId"]

    def _send_parts(self) -> None:
        # At most 10,000 parts, each but the last of one size.
        size = max(PART_BYTES, -(-self.upload.size_bytes // MOST_PARTS))
        while content := self.upload.file.read(size):
            self._send_part(len(self.parts) + 1, content)

    def _send_part(self, number: int, content: bytes) -> None:
        for tries_left in reversed(range(PART_TRIES)):
            try:
                answer = self.hand.do(self._put_part, number, content, limit_sec=PART_SEC)
            except Exception as error:
                if not tries_left or self.hand.cut_off or not self.store.may_pass(error):
                    raise
                continue
            self.digests.append(_digest(content))
            self.parts.append({"PartNumber": number, "ETag": answer["ETag"]})
            return

    def _put_part(self, number: int, content: bytes) -> Any:
        return self.store.client.upload_part(
            Body=self.store.body(content),
            ContentMD5=_md5(content),
            PartNumber=number,
            UploadId=self.upload_id,
            **self.store.target(self.name),
        )

    def _complete(self) -> object:
        return self.store.client.complete_multipart_upload(
            UploadId=self.upload_id,
            MultipartUpload={"Parts": self.parts},
            **self.store.target(self.name),
            **self.store.condition(self.upload),
        )

    def _etag(self) -> str:
        """What S3 gives such an object: the MD5 of the parts' MD5s, and their number."""
        return f"{_hex(b''.join(self.digests))}-{len(self.digests)}"

    def _aborted(self) -> bool:
        """By a new connection, because the old one may be the reason."""
        twin = self.store.twin()

        def abort() -> None:
            where = twin.target(self.name)
            twin.client.abort_multipart_upload(UploadId=self.upload_id, **where)

        try:
            with connected(twin, lambda: None, limit_sec=GRACE_SEC) as hand:
                hand.do(abort)
        except Exception as error:
            logger.warning("The upload to %s is left: %r", self.store.place(self.name), error)
            return False
        return True


class _Body(BytesIO):
    """Content that can be called back while it is being sent."""

    def __init__(self, content: bytes, is_severed: Callable[[], bool]) -> None:
        super().__init__(content)
        self._is_severed = is_severed

    def read(self, size: int | None = -1, /) -> bytes:
        if self._is_severed():
            raise ConnectionAbortedError("the upload was given up")
        return super().read(size)


def _is_taken(error: Any) -> bool:
    return _code(error) in ("PreconditionFailed", "412") or _status(error) == 412


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _digest(content: bytes) -> bytes:
    return md5(content, usedforsecurity=False).digest()


def _md5(content: bytes) -> str:
    return b64encode(_digest(content)).decode()


def _hex(content: bytes) -> str:
    return _digest(content).hex()
