"""The routes: what they return, how they refuse, and that the documented shapes are the real ones."""

import io
import json

import numpy as np
import pytest

from nextvec.serving import schemas


def post(client, path, body, kind="application/json"):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(path, content=content, headers={"content-type": kind})


def test_predict_returns_what_the_model_returns(client, model, vectors):
    context_SD = vectors(4)
    values = post(client, "/v1/predict", {"vectors": context_SD.tolist()}).json()
    np.testing.assert_allclose(values["prediction"], model.predict(context_SD), atol=1e-6)
    np.testing.assert_allclose(values["query"], model.query(context_SD), atol=1e-6)
    assert schemas.PredictResponse.model_validate(values, strict=True).model == model.source
    # Several contexts of other lengths, then a .npy file of one and of several contexts.
    several = [vectors(count, seed=count) for count in (1, 4, 2)]
    values = post(client, "/v1/predict", {"vectors": [context.tolist() for context in several]}).json()
    np.testing.assert_allclose(values["prediction"], model.predict(several), atol=1e-6)
    for saved in (context_SD, vectors(3, 2), vectors(3, 2).astype(np.float64), vectors(2).astype(">f4")):
        buffer = io.BytesIO()
        np.save(buffer, saved)
        values = post(client, "/v1/predict", buffer.getvalue(), "application/octet-stream").json()
        np.testing.assert_allclose(values["prediction"], model.predict(saved), atol=1e-6)


def test_texts_give_the_results_of_the_python_functions(client, service, paragraphs):
    model, index = service.runner.model, service.runner.index
    expected = {
        "/v1/next": model.next(paragraphs[:3], index, 2),
        "/v1/generate": model.generate(paragraphs[:3], index, 2, snap=False),
        "/v1/score": model.score(paragraphs[:3]),
    }
    options = {"/v1/next": {"k": 2}, "/v1/generate": {"steps": 2, "raw": True}, "/v1/score": {}}
    responses = {"/v1/next": schemas.NextResponse, "/v1/generate": schemas.GenerateResponse,
                 "/v1/score": schemas.ScoreResponse}  # fmt: skip
    for path, result in expected.items():
        for body in ({"texts": paragraphs[:3]}, {"text": "\n\n".join(paragraphs[:3])}):
            answer = post(client, path, body | options[path])
            assert answer.status_code == 200, answer.text
            assert flat(answer.json()) == flat(json.loads(json.dumps(result.to_dict())))
            described = responses[path].model_validate(answer.json(), strict=True)
            assert described.model_dump() == answer.json(), "every field is documented"


def flat(value, where=""):
    """Return the values of nested JSON by their place; numbers are rounded."""
    if isinstance(value, dict):
        return {key: item for name, inner in value.items() for key, item in flat(inner, f"{where}.{name}").items()}
    if isinstance(value, list):
        return {key: item for n, inner in enumerate(value) for key, item in flat(inner, f"{where}[{n}]").items()}
    return {where: pytest.approx(value, abs=1e-4) if isinstance(value, float) else value}


def test_the_model_is_described(client, model, text_store):
    values = client.get("/v1/model").json()
    assert schemas.ModelResponse.model_validate(values, strict=True).model_dump() == values
    assert values["dimensions"] == 12 and values["context_length"] == 4 and values["encoder_error"] is None
    assert values["index"] == {"name": f"store {text_store.path}", "chunks": len(text_store.vectors)}
    assert client.get("/healthz").json() == {"status": "ok"} and client.get("/readyz").json() == {"status": "ready"}
