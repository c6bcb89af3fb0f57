"""Requests of the tests to a running service."""

import http.client


def ask(served, method, path, body=None, **headers):
    """Send a request to the port of a service; return the status and the body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
