"""The page to try the model, in a real browser: what it shows, how it refuses, and that every text stays text."""

import pytest

from nextvec.errors import InputError
from nextvec.serving.app import make_app

EVIL = "<img src=x onerror=\"document.title='hit'\"> the boats sail with the tide beside the old stone wall today."
READY = "!document.getElementById('run').disabled"
DONE = f"{READY} && !document.querySelector('.busy')"


def submit(found, text, button="#run"):
    """Enter a text, press a button, and wait for all answers."""
    found.page.fill("#text", text)
    found.page.click(button)
    found.wait_for(f"{DONE} && document.querySelector('section h2')")


def test_a_text_gets_its_next_chunks_and_scores(server, visit, model, service, paragraphs):
    found = visit(server.url)
    found.wait_for(READY)
    assert model.source in found.page.inner_text("h1") and "AMN" in found.page.inner_text("#about")
    found.page.fill("#count", "3")
    submit(found, "\n\n".join(paragraphs[:4]))
    expected = model.next(paragraphs[:4], service.runner.index, 3)
    items = found.page.locator("#next li:not(.baseline)")
    assert items.count() == 3
    for number, match in enumerate(expected.chunks):
        shown = items.nth(number).inner_text()
        assert match.text in shown and match.title in shown and f"score {match.score:.3f}" in shown.replace("−", "-")
    assert f"{expected.baseline}, the best baseline" in found.page.inner_text("#next")
    assert found.page.inner_text("#announcement") == "Done: Most likely next chunks, Score of every chunk"
    scores = model.score(paragraphs[:4])
    rows = found.page.locator("#score tbody tr")
    assert rows.count() == 4 and "no chunk before it" in rows.nth(0).inner_text()
    for number, chunk in enumerate(scores.chunks[1:], 1):
        assert f"cosine {chunk.cosine:.3f}" in rows.nth(number).inner_text().replace("−", "-")
    # A bar is as wide as its number says.
    widths = (
        "[...document.querySelectorAll('#score .bars:nth-child(3) .fill')].map((bar) => parseFloat(bar.style.width))"
    )
    cosines = [100 * max(0.0, chunk.cosine) for chunk in scores.chunks[1:]]
    assert found.page.evaluate(widths) == pytest.approx(cosines, abs=0.06)
    # The chosen chunk becomes part of the text, and the text is continued from there.
    items.nth(0).get_by_text("Append to the text").click()
    assert found.page.input_value("#text").endswith("\n\n" + expected.chunks[0].text)
    found.page.click("#continue")
    found.wait_for(f"{DONE} && document.querySelector('#continuation li')")
    steps = model.generate([*paragraphs[:4], expected.chunks[0].text], service.runner.index, 3)
    shown = found.page.locator("#continuation li .passage").all_inner_texts()
    assert shown == [match.text for match in steps.chunks] and found.page.inner_text("#next") == ""


def test_every_text_stays_text_and_no_request_leaves_the_machine(server, visit):
    found = visit(server.url)
    found.wait_for(READY)
    submit(
        found, "\n\n".join([EVIL, EVIL.replace("boats", "crust"), "</script><b>moon orbit comet lens dust star</b>"])
    )
    assert EVIL in found.page.locator("#score tbody tr").nth(0).inner_text()
    assert found.page.evaluate("document.querySelectorAll('main img, main b, main script').length") == 0
    assert "hit" not in found.page.title()[:3]
    assert found.asked and all(url.startswith((server.url, "data:")) for url in found.asked), found.asked
    inline = "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)"
    found.page.evaluate(inline)
    assert found.page.evaluate("window.ran") is None, "no script but the page's own runs"


def test_refusals_are_one_line_each(server, visit, paragraphs):
    found = visit(server.url)
    found.wait_for(READY)
    found.page.click("#run")
    assert found.page.inner_text("#error") == "Enter a text first."
    # One chunk has next chunks but no score: each answer has its own error.
    submit(found, paragraphs[0])
    assert found.page.locator("#next li").count() >= 5
    error = found.page.inner_text("#score .error[role=alert]")
    assert "has 1 chunk, but a score needs at least 2" in error and "\n" not in error
    submit(found, "x")
    assert found.page.locator("section .error").count() == 2 and found.page.locator("section li").count() == 0
    # A service that has stopped.
    found.page.route("**/v1/*", lambda route: route.abort())
    submit(found, paragraphs[0])
    assert "The service does not answer" in found.page.inner_text("#next .error")
    assert "not reachable" in found.page.inner_text("#connection")
    found.page.unroute("**/v1/*")


def test_the_page_offers_what_the_service_can_do(server, visit, client, paragraphs):
    described = client.get("/v1/model").json()
    found = visit(server.url)
    states = iter(
        [
            (503, {"error": "The service is loading."}),
            (200, described | {"index": None}),
            (200, described | {"encoder_error": "The encoder is not installed."}),
        ]
    )

    def answer(route):
        status, values = next(states)
        route.fulfill(status=status, json=values)

    found.page.route("**/v1/model", answer)
    found.page.reload()
    found.wait_for("document.getElementById('connection').textContent === 'loading …'")
    found.wait_for(READY)
    assert not found.page.is_visible("#continue") and not found.page.is_visible("#count")
    submit(found, "\n\n".join(paragraphs[:3]), "text=Score the text")
    assert found.page.locator("#score tbody tr").count() == 3 and found.page.inner_text("#next") == ""
    found.page.reload()
    found.wait_for("document.getElementById('error').textContent === 'The encoder is not installed.'")
    assert found.page.is_disabled("#run") and found.page.is_disabled("#continue")


def test_the_page_asks_for_a_token_and_keeps_it(locked_server, visit, paragraphs):
    found = visit(locked_server.url)
    found.wait_for("!document.getElementById('access').hidden")
    assert not found.page.is_visible("#try") and found.page.evaluate("document.activeElement.id") == "token"
    found.page.keyboard.type("wrong")
    found.page.keyboard.press("Enter")
    found.wait_for("document.getElementById('access-error').textContent === 'Wrong token.'")
    found.page.fill("#token", locked_server.token)
    found.page.keyboard.press("Enter")
    found.wait_for(READY)
    assert not found.page.is_visible("#access")
    submit(found, "\n\n".join(paragraphs[:3]))
    assert found.page.locator("#score tbody tr").count() == 3
    found.page.reload()
    found.wait_for(READY)
    assert found.page.evaluate("document.cookie") == "", "no script can read the token"
    # The printed URL needs no field, and the token does not stay in the address.
    opened = visit(locked_server.printed_url)
    opened.wait_for(READY)
    assert opened.page.url == locked_server.url


@pytest.mark.parametrize("token", ["two words", "€uro", "line\nbreak", " "])
def test_a_token_that_no_header_can_carry_is_refused(service, token):
    with pytest.raises(InputError, match="token: has a space or a character outside ASCII"):
        make_app(service, token=token)


def test_the_page_is_used_by_keyboard_and_fits_a_phone(server, visit, paragraphs):
    found = visit(server.url, width=360, height=740, color_scheme="dark", has_touch=True)
    found.wait_for(READY)
    reached = []
    for _ in range(9):
        found.page.keyboard.press("Tab")
        reached.append(found.page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert [name for name in reached if name in ("example", "text", "run", "continue", "count")] == [
        "example",
        "text",
        "run",
        "continue",
        "count",
    ]
    found.page.fill("#text", "\n\n".join([*paragraphs[:3], "tide" * 200]))
    found.page.focus("#text")
    found.page.keyboard.press("Control+Enter")
    found.wait_for(f"{DONE} && document.querySelector('#score tbody tr')")
    assert found.page.evaluate("document.documentElement.scrollWidth") <= 360, "nothing is wider than the phone"
    assert found.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    unnamed = "[...document.querySelectorAll('input, textarea')].filter((field) => !field.labels.length).length"
    assert found.page.evaluate(unnamed) == 0, "every field has a label"
