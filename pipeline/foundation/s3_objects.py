"""Small objects of one bucket: read and written whole, listed, deleted. Large files: `s3_parts`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from pipeline.foundation.s3_errors import code_of


@dataclass(frozen=True)
class Bucket:
    """A bucket of a boto3 client. Errors are boto3's own; every call may be repeated."""

    client: Any
    name: str

    def put_json(self, key: str, body: str) -> None:
        """Keep JSON under a key."""
        self.client.put_object(Bucket=self.name, Key=key, Body=body.encode(), ContentType="application/json")

    def read(self, key: str) -> bytes:
        """What is kept under a key."""
        with self.client.get_object(Bucket=self.name, Key=key)["Body"] as body:
            return bytes(body.read())

    def read_if_there(self, key: str) -> bytes | None:
        """What is kept under a key; None where there is nothing."""
        try:
            return self.read(key)
        except ClientError as error:
            if code_of(error) != "NoSuchKey":
                raise
            return None

    def delete(self, key: str) -> None:
        """Delete an object, which may be gone already."""
        self.client.delete_object(Bucket=self.name, Key=key)

    def listing(self, prefix: str) -> Iterator[tuple[str, int]]:
        """The key and the size of each object below a prefix, ascending by key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return ((item["Key"], item["Size"]) for page in pages for item in page.get("Contents", []))
