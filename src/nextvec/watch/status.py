"""A run's status in words, as every view says it."""

from __future__ import annotations

from nextvec.lights import Light
from nextvec.watch.state import RunState
from nextvec.watch.words import duration


def status_words(state: RunState) -> tuple[str, Light | None]:
    """A run's status in words, and the light before it where it has one."""
    if state.silent_for is not None:
        return f"{state.status}? no news for {duration(state.silent_for)}", "amber"
    took = f" · trained {duration(state.seconds_trained)}" if state.seconds_trained else ""
    match state.status:
        case "waiting":
            return "no events yet", None
        case "starting":
            return "starting: measuring baselines", None
        case "running":
            return "running" + ("" if state.seconds_left is None else f" · {duration(state.seconds_left)} left"), None
        case "trained":
            return f"trained · judging{took.replace(' · trained', ' ·')}", None
        case "finished":
            return f"finished{took}", None
        case "interrupted":
            return f"interrupted{took}", "amber"
        case ended:
            return f"{ended}{took}", "red"
