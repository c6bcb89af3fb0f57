"""The live page in a browser: it follows its runs, compares them, and shows names as text."""

import re
import time

import pytest

EVIL = "<img src=x onerror=\"document.title='hit'\">"


def renamed(events, name):
    """Return the events with another name of the run."""
    recipe = {**events[0]["recipe"], "name": name}
    return [{**events[0], "name": name, "recipe": recipe}, *events[1:]]


def test_the_page_follows_a_running_run(serve, visit, make_events, write_run):
    events = make_events(6, half=False)
    cut = next(number for number, event in enumerate(events) if event["kind"] == "epoch" and event["epoch"] == 4)
    run = write_run("one", events[: cut + 1])
    served = serve()
    id = served.wait_for(run)
    found = visit(f"{served.url}#/run/{id}")
    found.wait_for("document.querySelector('[data-key=val_cosine] .main-svg')")
    ys = "document.querySelector('[data-key=val_cosine] .canvas').data.find((line) => line.name === 'val').y"
    assert found.page.evaluate(f"{ys}.length") == 4
    found.page.evaluate("document.querySelector('[data-key=val_cosine]').marked = true")
    write_run("one", events[cut + 1 :])
    assert found.wait_for(f"{ys}.length === 6 && {ys}") == pytest.approx([0.44 + 0.01 * n for n in range(1, 7)])
    assert found.page.evaluate("document.querySelector('[data-key=val_cosine]').marked"), (
        "the chart was changed in place"
    )
    found.wait_for("document.body.innerText.includes('epoch 7 of 10')")
    text = found.page.inner_text("main")
    assert "sentinel (ood)" in text.lower() and "0.5326 ridge" in text and "SYNTHETIC" in text
    assert found.page.evaluate("document.querySelector('[data-key=val_cosine] .annotation-text') !== null")
    symbols = found.page.evaluate("[...document.querySelectorAll('.status[role=img]')].map((e) => e.textContent)")
    assert {"●", "▲"} <= set(symbols) <= set("●▲■")


def test_the_page_reconnects_to_a_restarted_server(serve, visit, make_events, write_run):
    run = write_run("one", make_events(3, half=False))
    served = serve()
    served.wait_for(run)
    found = visit(served.url)
    found.wait_for("document.body.innerText.includes('epoch 3 of 10')")
    served.stop()
    found.wait_for("document.getElementById('connection').innerText.includes('reconnecting')")
    write_run("one", make_events(5, half=False)[-6:])
    serve(port=served.port)
    found.wait_for("document.body.innerText.includes('epoch 5 of 10')")
    assert "live" in found.page.inner_text("#connection")


def test_two_runs_are_selected_by_keyboard_and_compared(serve, visit, make_events, write_run):
    for name, epochs in (("a", 3), ("b", 5)):
        write_run(name, renamed(make_events(epochs, half=False), f"run {name}"))
    served = serve()
    found = visit(served.url)
    found.wait_for("document.querySelectorAll('.runs input').length === 2")
    keys = found.page.keyboard
    selected = 0
    while selected < 2:
        keys.press("Tab")
        if found.page.evaluate("document.activeElement.type") == "checkbox":
            keys.press("Space")
            selected += 1
    assert found.page.evaluate("document.querySelectorAll('.runs input:checked').length") == 2
    found.page.focus("a.button")
    keys.press("Enter")
    found.wait_for("document.querySelector('[data-key=val_gain] .main-svg')")
    lines = found.page.evaluate(
        "document.querySelector('[data-key=val_gain] .canvas').data.map((l) => [l.name, l.x.length])"
    )
    assert sorted(lines) == [["run a", 3], ["run b", 5]]
    colors = found.page.evaluate("document.querySelector('[data-key=val_gain] .canvas').data.map((l) => l.line.color)")
    assert len(set(colors)) == 2 and all(re.fullmatch(r"#\w{6}", color) for color in colors)


@pytest.mark.parametrize("place", ["", "#/run/{id}", "#/overlay/{id},{id}"])
def test_a_name_is_shown_as_text_on_every_page(serve, visit, make_events, write_run, place):
    events = renamed(make_events(4, half=False), EVIL)
    events[2]["cosines"]["val"][EVIL] = 0.5327
    events[-1]["advice"] = EVIL
    run = write_run("one", events)
    served = serve()
    found = visit(served.url + place.format(id=served.wait_for(run)))
    found.wait_for(f"document.querySelector('main').innerText.includes({EVIL!r})")
    if place:
        found.wait_for("document.querySelector('.main-svg')")
    time.sleep(0.2)
    assert found.page.evaluate("document.querySelectorAll('img').length") == 0 and "hit" not in found.page.title()[:3]


def test_no_request_leaves_the_machine(serve, visit, make_events, write_run):
    run = write_run("one", make_events(4))
    (run / "report.html").write_text("<p>the report")
    served = serve()
    found = visit(f"{served.url}#/run/{served.wait_for(run)}")
    found.wait_for("document.querySelector('.main-svg')")
    assert found.asked and all(url.startswith(served.url) or url.startswith("data:") for url in found.asked), (
        found.asked
    )
    refused = found.page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')")
    assert refused == "refused"
    found.page.evaluate(
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)"
    )
    assert found.page.evaluate("window.ran") is None, "no script but the page's own runs"
    with found.page.context.expect_page() as opened:
        found.page.click("text=Report")
    assert opened.value.inner_text("p") == "the report"


def test_the_page_fits_a_phone_and_follows_the_color_scheme(serve, visit, make_events, write_run):
    run = write_run("one", make_events(4))
    served = serve()
    id = served.wait_for(run)
    for place in ("", f"#/run/{id}"):
        found = visit(served.url + place, width=360, height=740, color_scheme="dark", has_touch=True)
        found.wait_for("document.querySelector('h1') && document.querySelector('main a')")
        assert found.page.evaluate("document.documentElement.scrollWidth") <= 360, "nothing is wider than the phone"
        assert found.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    found.page.evaluate("document.querySelector('[data-key=val_cosine]').scrollIntoView()")
    found.wait_for("document.querySelector('[data-key=val_cosine] .main-svg')")
    line = "document.querySelector('[data-key=val_cosine] .canvas').data.find((line) => line.name === 'val').line.color"
    assert found.page.evaluate(line) == "#56b4e9"
    found.page.emulate_media(color_scheme="light")
    found.wait_for(f"{line} === '#0072b2'")


def test_a_hundred_runs_and_a_thousand_epochs_are_shown(serve, visit, make_events, write_run):
    events = make_events(10, half=False)
    for number in range(99):
        write_run(f"run {number:02}", renamed(events, f"run {number:02}"))
    long = write_run("long", renamed(make_events(1000, total=1000, half=False), "the long one"))
    served = serve()
    id = served.wait_for(long)
    found = visit(served.url)
    found.wait_for("document.querySelectorAll('.runs tbody tr').length === 100")
    found.page.fill("input[type=search]", "run 4")
    assert found.page.evaluate("document.querySelectorAll('.runs tbody tr:not([hidden])').length") == 10
    found.page.evaluate(f"location.hash = '#/run/{id}'")
    found.wait_for("document.querySelector('[data-key=val_cosine] .main-svg')")
    drawn = "document.querySelector('[data-key=val_cosine] .canvas').data.find((line) => line.name === 'val').x"
    assert found.page.evaluate(f"{drawn}.length") <= 800 and found.page.evaluate(f"{drawn}.at(-1)") == 1000


def test_a_run_that_is_removed_while_it_is_shown_is_reported(serve, visit, make_events, write_run):
    run = write_run("one", make_events(2))
    write_run("two", make_events(2))
    served = serve()
    found = visit(f"{served.url}#/run/{served.wait_for(run)}")
    found.wait_for("document.body.innerText.includes('epoch 3 of 10')")
    (run / "events.jsonl").unlink()
    run.rmdir()
    found.wait_for("document.body.innerText.includes('was removed')")
    found.page.click("text=nextvec watch")
    found.wait_for("document.querySelectorAll('.runs tbody tr').length === 1")
