"""The runs that the live page shows, and those who wait for news of them.

One task looks at the logs; each open page waits at `news` and is told only of what has changed since it was last told.
A page that comes back after a restart of either side starts from 0 and is told of everything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nextvec.monitor.discovery import WatchedRun, newest_first, runs_in
from nextvec.monitor.state import RunState
from nextvec.monitor.web.payload import summary

BATCH = 10
"""Runs that are read before pages hear of them, when there are many new ones."""


class Hub:
    """Follows runs: those given and, in the folders `homes`, all that are there or come later."""

    def __init__(self, runs: Sequence[WatchedRun], homes: Sequence[Path] = (), *, every: float = 30.0) -> None:
        self._runs = {run.id: run for run in runs}
        self._homes, self._every = homes, every
        self._stamps: dict[str, int] = {}  # when each run last changed, on the clock of `_now`
        self._summaries: dict[str, dict[str, Any]] = {}
        self._gone: dict[str, int] = {}
        self._now = 0
        self._told_at = 0.0
        self._news = asyncio.Condition()
        self.closing = False

    def run(self, id: str) -> WatchedRun | None:
        """The run of that id, if it is one of those that are shown."""
        return self._runs.get(id)

    def state(self, id: str) -> RunState | None:
        """Where a run stands."""
        run = self._runs.get(id)
        return None if run is None else run.state(time.time())

    def stamp(self, id: str) -> int:
        """A number that grows whenever the run changes."""
        return self._stamps.get(id, 0)

    def since(self, stamp: int) -> tuple[int, dict[str, Any]]:
        """What has changed after a stamp, and the stamp to ask with next; 0 asks for everything."""
        runs = [
            {"id": id, "stamp": at, **self._summaries[id]}
            for id, at in sorted(self._stamps.items(), key=lambda item: -item[1])
            if at > stamp
        ]
        gone = [id for id, at in self._gone.items() if at > stamp]
        return self._now, {"everything": stamp == 0, "runs": runs, "gone": gone}

    async def news(self, stamp: int, patience: float) -> bool:
        """Wait until something has changed after `stamp`, at most `patience` seconds; whether it has."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience), self._news:
                await self._news.wait_for(lambda: self._now > stamp or self.closing)
        return self._now > stamp

    async def follow(self, poll: float) -> None:
        """Look at the logs every `poll` seconds, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(poll)

    async def look(self) -> None:
        """Look once: for new runs, at every log, and now and then at what only the time changes."""
        await asyncio.to_thread(self._find)
        late = time.monotonic() - self._told_at >= self._every
        if late:
            self._told_at = time.monotonic()
        changed: list[WatchedRun] = []
        for run in list(self._runs.values()):
            new = await asyncio.to_thread(run.look)
            known = self._summaries.get(run.id)
            if new or known is None or (late and not known["ended"]):
                changed.append(run)
            if len(changed) >= BATCH:
                await self._tell(changed)
                changed = []
        if changed:
            await self._tell(changed)

    def _find(self) -> None:
        """Take up the runs that have appeared in the homes, the newest first."""
        known = {run.path for run in self._runs.values()}
        for folder in newest_first(folder for folder in runs_in(self._homes) if folder not in known):
            run = WatchedRun(folder)
            self._runs.setdefault(run.id, run)

    async def _tell(self, changed: Sequence[WatchedRun]) -> None:
        states = await asyncio.to_thread(lambda: [run.state(time.time()) for run in changed])
        async with self._news:
            self._now += 1
            for run, state in zip(changed, states, strict=True):
                if run.gone:
                    for table in (self._runs, self._stamps, self._summaries):
                        table.pop(run.id, None)
                    self._gone[run.id] = self._now
                else:
                    self._stamps[run.id], self._summaries[run.id] = self._now, summary(state)
                    self._gone.pop(run.id, None)
            self._news.notify_all()

    async def close(self) -> None:
        """Let all who wait go, so that their streams end."""
        self.closing = True
        async with self._news:
            self._news.notify_all()
