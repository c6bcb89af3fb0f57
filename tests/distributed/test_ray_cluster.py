"""The connection to Ray: found, shared, or refused in one line."""

import pytest

from nextvec.distributed.ray_cluster import ray_cluster
from nextvec.errors import MissingExtraError, ServerError


def test_a_connection_that_exists_is_used_and_left_open(local_ray):
    with ray_cluster("192.0.2.1:6379", "this test") as ray:
        assert ray is local_ray
    assert local_ray.is_initialized()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("nextvec.distributed.ray_cluster.find_spec", lambda name: None)
    message = r"this test needs the package ray: pip install 'nextvec\[ray\]'"
    with pytest.raises(MissingExtraError, match=message), ray_cluster(None, "this test"):
        pass


def test_without_an_address_a_cluster_of_somebody_else_is_not_joined(monkeypatch):
    ray = pytest.importorskip("ray", reason="needs the extra 'ray'")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    options = []
    monkeypatch.setattr(ray, "init", lambda **given: options.append(given))
    with ray_cluster(None, "this test"), ray_cluster("auto", "this test"):
        pass
    assert [given["address"] for given in options] == ["local", "auto"]


def test_a_cluster_that_does_not_answer_is_named(monkeypatch):
    ray = pytest.importorskip("ray", reason="needs the extra 'ray'")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def refuse(**options: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nPlease specify the one to connect to.")

    monkeypatch.setattr(ray, "init", refuse)
    message = r"^Ray cluster auto: can't be reached \(.*\)\. Start one with 'ray start"
    with pytest.raises(ServerError, match=message), ray_cluster("auto", "this test"):
        pass


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "nowhere", "ray://127.0.0.1:10001", "127.0.0.1:port", "127.0.0.1:99999"]
)
def test_an_address_where_nothing_answers_is_named_at_once(monkeypatch, address):
    ray = pytest.importorskip("ray", reason="needs the extra 'ray'")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    message = rf"^Ray cluster {address}: can't be reached \(.*\)\. Start one with"
    with pytest.raises(ServerError, match=message), ray_cluster(address, "this test"):
        pass
