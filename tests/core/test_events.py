"""The event log survives killed writers and reads as the history of one unbroken run."""

import json
import math
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.core.events import EventLog, read_events
from nextvec.core.run_paths import EVENTS_FILE
from nextvec.errors import InputError, OutputError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def log(tmp_path):
    log = EventLog(tmp_path / EVENTS_FILE)
    yield log
    log.close()


def spelt(value):
    """What a value is after a way through the log."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: spelt(item) for key, item in value.items()}
    return [spelt(item) for item in value] if isinstance(value, list) else value


@settings(deadline=None, max_examples=60)
@given(st.lists(VALUES, max_size=5))
def test_what_is_written_is_read(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("log") / EVENTS_FILE
    log = EventLog(path)
    for number, value in enumerate(values):
        log.write("step", step=number, value=value)
    log.close()
    events = read_events(path)
    assert [event["value"] for event in events] == [spelt(value) for value in values]
    assert all(event["kind"] == "step" and event["time"] > 0 for event in events)


def test_numbers_that_json_lacks_are_words(log):
    log.write("step", loss=math.nan, parts=[math.inf, {"x": -math.inf}], fine=1.5)
    (event,) = read_events(log.path)
    assert (event["loss"], event["parts"], event["fine"]) == ("nan", ["inf", {"x": "-inf"}], 1.5)
    json.loads(log.path.read_text(encoding="utf-8"), parse_constant=lambda word: pytest.fail(word))


def test_each_event_is_one_line_whatever_it_says(log):
    log.write("note", text="two\nlines\r\nand \u2028 and é")
    log.write("note", text="next")
    assert log.path.read_bytes().count(b"\n") == 2
    assert [event["text"] for event in read_events(log.path)] == ["two\nlines\r\nand \u2028 and é", "next"]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 400))
def test_a_log_cut_anywhere_loses_at_most_its_last_event(tmp_path_factory, cut):
    """A writer killed in the middle of a line; the next one goes on and no event of it is swallowed."""
    path = tmp_path_factory.mktemp("log") / EVENTS_FILE
    log = EventLog(path)
    for step in range(5):
        log.write("step", step=step, text="é" * 10)
    log.close()
    content = path.read_bytes()
    cut = min(cut, len(content))
    path.write_bytes(content[:cut])
    whole = content[:cut].count(b"\n")
    # A last line that lacks nothing but its end is an event as well.
    whole += cut < len(content) and content[cut : cut + 1] == b"\n"
    assert [event["step"] for event in read_events(path)] == list(range(whole))
    log = EventLog(path)
    log.write("step", step=99)
    log.close()
    assert [event["step"] for event in read_events(path)] == [*range(whole), 99]


@pytest.mark.parametrize("line", [b"not json", b"[1]", b"{}", b'{"kind": 3}', b"\xff\xfe", b"", b"\x00\x00"])
def test_broken_lines_are_left_out(log, line):
    log.write("started")
    with log.path.open("ab") as file:
        file.write(line + b"\n")
    log.write("finished")
    assert [event["kind"] for event in read_events(log.path)] == ["started", "finished"]


def test_a_resumed_run_reads_as_if_never_interrupted(log):
    log.write("started")
    for step in (10, 20, 30):
        log.write("epoch", step=step, by="first")
    log.write("interrupted", step=35)
    log.write("resumed", step=20)
    for step in (30, 40):
        log.write("epoch", step=step, by="second")
    log.write("finished", step=40)
    events = read_events(log.path)
    assert [(event["kind"], event.get("step"), event.get("by")) for event in events] == [
        ("started", None, None), ("epoch", 10, "first"), ("epoch", 20, "first"), ("resumed", 20, None),
        ("epoch", 30, "second"), ("epoch", 40, "second"), ("finished", 40, None),
    ]  # fmt: skip


def test_an_epoch_that_was_killed_at_its_end_is_told_once(log):
    """The position was saved at the epoch's last step; the kill came between the epoch's event and the next save."""
    log.write("step", step=20, epoch=1)
    log.write("epoch", step=20, epoch=2, by="first")
    log.write("resumed", step=20, epoch=1)
    log.write("epoch", step=20, epoch=2, by="second")
    assert [event.get("by") for event in read_events(log.path) if event["kind"] == "epoch"] == ["second"]


@pytest.mark.parametrize("end", ["interrupted", "stopped", "failed", "finished", "evaluated"])
def test_a_resumed_run_has_not_ended(log, end):
    log.write("epoch", step=10)
    log.write(end, step=10)
    log.write("resumed", step=10)
    assert [event["kind"] for event in read_events(log.path)] == ["epoch", "resumed"]


def test_two_writers_and_a_reader_at_once_see_whole_lines_only(log):
    other = EventLog(log.path)
    seen = []

    def write(writer, name):
        for number in range(200):
            writer.write("step", by=name, number=number, text="x" * 500)

    threads = [threading.Thread(target=write, args=(log, "a")), threading.Thread(target=write, args=(other, "b"))]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen.append(len(read_events(log.path)))
    for thread in threads:
        thread.join()
    other.close()
    events = read_events(log.path)
    assert len(events) == 400 and seen == sorted(seen)
    for name in "ab":
        assert [event["number"] for event in events if event["by"] == name] == list(range(200))


def test_a_folder_or_its_log_can_be_named(log, tmp_path):
    log.write("started")
    assert read_events(tmp_path) == read_events(log.path)


def test_no_log_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"it contains no events\.jsonl. Name the folder of a run"):
        read_events(tmp_path)
    with pytest.raises(InputError, match="Name the folder of a run"):
        read_events(tmp_path / "missing")


def test_a_log_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(OutputError, match=r"cannot write .*gone"):
        EventLog(tmp_path / "gone" / EVENTS_FILE)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_is_one_line():
    code = (
        "from pathlib import Path\nfrom nextvec.core.events import EventLog\n"
        "try:\n    EventLog(Path('/dev/full')).write('x')\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("OutputError cannot write /dev/full: the disk is full; free some space")


def test_sync_and_reopen_go_on_where_it_ended(tmp_path):
    for number in range(3):
        log = EventLog(tmp_path / EVENTS_FILE)
        log.write("step", step=number)
        log.sync()
        log.close()
    assert [event["step"] for event in read_events(tmp_path)] == [0, 1, 2]


def test_a_path_that_is_not_utf_8_is_written_and_read_back(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.write("started", store="/data/caf\udce9")
    log.close()
    assert read_events(tmp_path)[0]["store"] == "/data/caf\udce9"
