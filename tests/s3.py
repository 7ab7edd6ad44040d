"""An S3 server of this machine, which checks signatures: moto's, as s3fs' own tests use it.

It is one small Python package, needs no other process, and knows users, keys and policies.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import httpx
import pytest

_POLICY = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
    }
)


@dataclass(frozen=True)
class S3:
    """The server, and keys that it accepts."""

    url: str
    key: str
    secret: str

    @property
    def environment(self) -> dict[str, str]:
        """What a client finds it by."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def bucket(self, name: str) -> None:
        client("s3", self.url, self.key, self.secret).create_bucket(Bucket=name)


def client(service: str, url: str, key: str, secret: str) -> Any:
    import boto3

    return boto3.client(
        service,
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
    )


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # not a line for each request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    users = client("iam", url, "nobody", "nothing")
    users.create_user(UserName="trivium")
    users.put_user_policy(UserName="trivium", PolicyName="all", PolicyDocument=_POLICY)
    key = users.create_access_key(UserName="trivium")["AccessKey"]
    # From here on it looks at who asks.
    httpx.post(f"{url}/moto-api/reset-auth", content=b"0").raise_for_status()
    yield S3(url, key["AccessKeyId"], key["SecretAccessKey"])
    server.stop()


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The server, in this process' environment."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield s3_server
    fsspec.get_filesystem_class("s3").clear_instance_cache()
