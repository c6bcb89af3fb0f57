"""The socket of a web server, its URL, and who needs a token."""

import pytest

from nextvec.errors import InputError, OutputError
from nextvec.web.access import is_loopback
from nextvec.web.listen import address_of, bind, token_for


def test_others_need_a_token(monkeypatch):
    assert token_for("127.0.0.1", "T") == "" == token_for("localhost", "T") and len(token_for("0.0.0.0", "T")) > 20
    assert token_for("0.0.0.0", "T") != token_for("0.0.0.0", "T")
    monkeypatch.setenv("T", "mine")
    assert token_for("0.0.0.0", "T") == "mine" and token_for("::1", "T") == ""
    assert not is_loopback("192.168.1.1") and not is_loopback("localhost.evil.example")


def test_the_url_can_be_opened():
    assert address_of("::", 80, "a").endswith(":80/?token=a") and address_of("::1", 80, "") == "http://[::1]:80/"


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("no.such.host.invalid", 0, "no such address"),
        ("192.0.2.1", 0, "cannot be bound"),
        ("127.0.0.1", 70000, "--port"),
    ],
)
def test_an_unusable_address_is_an_error(host, port, message):
    with pytest.raises(InputError, match=message):
        bind(host, port)


def test_an_error_reports_that_no_port_is_free():
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OutputError, match=rf"--port {port}: not free on 127.0.0.1. Pass another port"):
            bind("127.0.0.1", port)
