"""Stores on S3, against moto's server: the real client, errors of the service as one line."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import nextvec
from nextvec.cli import main
from nextvec.core import object_storage
from nextvec.data.store import MANIFEST, Store, open_store
from nextvec.data.store.manifest import verify_store
from nextvec.errors import InputError, ServerError, StoreError

pytestmark = pytest.mark.long


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server with the bucket `bucket`."""
    pytest.importorskip("s3fs")
    moto_server = pytest.importorskip("moto.server")
    import boto3
    import s3fs

    server = moto_server.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NEXTVEC_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    boto3.client("s3").create_bucket(Bucket="bucket")
    yield f"http://{host}:{port}"
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_store_on_s3(endpoint: str, toy_store: Store, text_store: Store, tmp_path: Path, monkeypatch, capsys):
    import boto3

    url = "s3://bucket/team/wiki"
    assert nextvec.data_copy(text_store.path, url, quiet=True).copied == len(text_store.manifest["files"])
    store = open_store(url, quiet=True)
    assert store.store_hash == text_store.store_hash and store.texts([3]) == text_store.texts([3])
    assert verify_store(store.path) and nextvec.data_copy(url, tmp_path / "back", quiet=True).copied
    # A file in several requests, and an object that the service replaced.
    client = boto3.client("s3")
    monkeypatch.setattr(object_storage, "BLOCK_BYTES", 1000)
    content = client.get_object(Bucket="bucket", Key="team/wiki/vectors.npy")["Body"].read()
    nextvec.data_cache(clear=True)
    assert open_store(url, quiet=True).store_hash == store.store_hash
    client.put_object(Bucket="bucket", Key="team/wiki/vectors.npy", Body=content[:-1] + b"x")
    nextvec.data_cache(clear=True)
    with pytest.raises(StoreError, match=r"vectors\.npy is damaged"):
        open_store(url, quiet=True)
    client.delete_object(Bucket="bucket", Key="team/wiki/vectors.npy")
    with pytest.raises(StoreError, match=r"vectors\.npy: does not exist"):
        open_store(url, quiet=True)
    # Copying again mends it, and another store does not overwrite it.
    assert nextvec.data_copy(text_store.path, url, quiet=True).copied == 1
    assert open_store(url, quiet=True).store_hash == store.store_hash
    assert main(["data", "copy", str(toy_store.path), url]) == 2
    assert "already exists, and is another one" in capsys.readouterr().err
    keys = {entry["Key"] for entry in client.list_objects_v2(Bucket="bucket")["Contents"]}
    assert keys == {f"team/wiki/{name}" for name in (*text_store.manifest["files"], MANIFEST)}


def test_errors_of_s3(endpoint: str, toy_store: Store, monkeypatch: pytest.MonkeyPatch):
    import s3fs

    with pytest.raises(StoreError, match=r"has no manifest\.json"):
        open_store("s3://bucket/nothing")
    with pytest.raises(StoreError, match=r"has no manifest\.json"):
        open_store("s3://no-such-bucket/wiki")
    with pytest.raises(InputError, match=r"s3://no-such-bucket/wiki.* does not exist|can't be used"):
        nextvec.data_copy(toy_store.path, "s3://no-such-bucket/wiki", quiet=True)
    with pytest.raises(InputError, match="can't be used"):
        open_store("s3://not_a_bucket!/wiki")
    for changes, message in (
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "access is denied .*NoCredentialsError"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "the connection failed 5 times .*EndpointConnection"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(object_storage, "FIRST_WAIT_SECONDS", 0.0)
            for name, value in changes.items():
                patch.setenv(name, value) if value else patch.delenv(name)
            patch.setenv("HOME", "/nonexistent")
            s3fs.S3FileSystem.clear_instance_cache()
            with pytest.raises(ServerError, match=message) as caught:
                open_store("s3://bucket/wiki")
            assert "testing-secret" not in str(caught.value)
    s3fs.S3FileSystem.clear_instance_cache()
