"""Runs moto's S3 server inside the test process, with a bucket for each test."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen
from uuid import uuid4

from tests.services.processes import LOOPBACK

KEY, SECRET = "AKIATEST", "not-a-secret-of-anybody"
REGION = "eu-south-1"


@dataclass(frozen=True)
class S3Server:
    """Where the server is, and a client of its own for looking at what arrived."""

    port: int
    client: Any = field(repr=False)
    version: str = field(default_factory=lambda: version("moto"))

    def bucket(self) -> str:
        """A new bucket."""
        name = f"bucket-{uuid4().hex}"
        where = {"LocationConstraint": REGION}
        self.client.create_bucket(Bucket=name, CreateBucketConfiguration=where)
        return name

    def url(self, bucket: str, folder: str = "/reports", *, port: int | None = None) -> str:
        """With a reference to the environment variable S3_SECRET."""
        endpoint = quote(f"http://{LOOPBACK}:{port or self.port}", safe="")
        login = f"{KEY}:${{S3_SECRET}}"
        return f"s3://{login}@{bucket}{folder}?endpoint_url={endpoint}&region={REGION}"

    def keys(self, bucket: str) -> list[str]:
        found = self.client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return [each["Key"] for each in found]

    def content(self, bucket: str, key: str) -> bytes:
        with self.client.get_object(Bucket=bucket, Key=key)["Body"] as body:
            return body.read()

    @contextmanager
    def asking_for_rights(self) -> Iterator[None]:
        """Has the server check access keys meanwhile, of which it knows none."""
        self._free_requests("0")
        try:
            yield
        finally:
            self._free_requests("1000000000")

    def _free_requests(self, count: str) -> None:
        url = f"http://{LOOPBACK}:{self.port}/moto-api/reset-auth"
        headers = {"Content-Type": "text/plain"}
        request = Request(url, data=count.encode(), headers=headers, method="POST")
        urlopen(request, timeout=5).close()

    def unfinished(self, bucket: str) -> int:
        """How many multipart uploads are open."""
        return len(self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", []))


@contextmanager
def running() -> Iterator[S3Server]:
    """Give a server that takes any access key."""
    # Here, because they take seconds to load, and every run of the tests loads this module.
    import botocore.config
    import botocore.session
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address=LOOPBACK, port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    client = botocore.session.get_session().create_client(
        "s3",
        region_name=REGION,
        endpoint_url=f"http://{LOOPBACK}:{port}",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        config=botocore.config.Config(s3={"addressing_style": "path"}),
    )
    try:
        yield S3Server(port, client)
    finally:
        client.close()
        server.stop()
