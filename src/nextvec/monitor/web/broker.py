"""The runs of the live page, and the pages that wait for changes.

One task polls the logs. Each open page waits in `wait_for_change` and then gets what changed since its last version.
A page that reconnects, or whose server was restarted, starts at version 0 and gets everything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nextvec.monitor.discovery import WatchedRun, list_runs, newest_first
from nextvec.monitor.state import RunState
from nextvec.monitor.web.payload import summary

BATCH_SIZE = 10
"""Runs that are read before pages are notified, so that a page with many runs fills quickly."""


class Broker:
    """Follows the given runs, and all runs that exist or appear in `folders`."""

    def __init__(self, runs: Sequence[WatchedRun], folders: Sequence[Path] = (), *, refresh_seconds: float = 30.0):
        self._runs = {run.id: run for run in runs}
        self._folders, self._refresh_seconds = folders, refresh_seconds
        self._version = 0  # grows with every batch of changes
        self._versions: dict[str, int] = {}  # run id → version of its last change
        self._summaries: dict[str, dict[str, Any]] = {}
        self._removed: dict[str, int] = {}  # run id → version of its removal
        self._last_refresh = 0.0
        self._changed = asyncio.Condition()
        self.is_closing = False

    def run(self, id: str) -> WatchedRun | None:
        """Return the run with this id, if the page shows it."""
        return self._runs.get(id)

    def state(self, id: str) -> RunState | None:
        """Return the present state of a run."""
        run = self._runs.get(id)
        return None if run is None else run.state(time.time())

    def version(self, id: str) -> int:
        """Return a number that grows whenever the run changes; 0 before it was read."""
        return self._versions.get(id, 0)

    def changes_since(self, version: int) -> tuple[int, dict[str, Any]]:
        """Return the present version and what changed after `version`; version 0 gets everything."""
        # The latest change comes first, so that a page fills with the active runs.
        runs = [
            {"id": id, "version": changed_at, **self._summaries[id]}
            for id, changed_at in sorted(self._versions.items(), key=lambda item: -item[1])
            if changed_at > version
        ]
        removed = [id for id, removed_at in self._removed.items() if removed_at > version]
        return self._version, {"everything": version == 0, "runs": runs, "removed": removed}

    async def wait_for_change(self, version: int, timeout: float) -> bool:
        """Wait at most `timeout` seconds for a change after `version`, and return whether there was one."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: self._version > version or self.is_closing)
        return self._version > version

    async def follow(self, poll_seconds: float) -> None:
        """Poll the logs every `poll_seconds` until cancelled."""
        while True:
            await self.poll()
            await asyncio.sleep(poll_seconds)

    async def poll(self) -> None:
        """Find new runs, read every log, and refresh times every `refresh_seconds`."""
        await asyncio.to_thread(self._find_new_runs)
        is_refresh = time.monotonic() - self._last_refresh >= self._refresh_seconds
        if is_refresh:
            self._last_refresh = time.monotonic()
        changed: list[WatchedRun] = []
        for run in list(self._runs.values()):
            has_new_events = await asyncio.to_thread(run.poll)
            known = self._summaries.get(run.id)
            # Without new events, only times such as the time left change, and only while a run is active.
            if has_new_events or known is None or (is_refresh and not known["ended"]):
                changed.append(run)
            if len(changed) >= BATCH_SIZE:
                await self._publish(changed)
                changed = []
        if changed:
            await self._publish(changed)

    def _find_new_runs(self) -> None:
        """Add the runs that have appeared in the folders, the newest first."""
        known = {run.path for run in self._runs.values()}
        for folder in newest_first(folder for folder in list_runs(self._folders) if folder not in known):
            run = WatchedRun(folder)
            self._runs.setdefault(run.id, run)

    async def _publish(self, changed: Sequence[WatchedRun]) -> None:
        """Update the summaries of some runs and notify the pages."""
        # Reading states takes a while for long logs, so it happens in a thread and outside of the lock.
        states = await asyncio.to_thread(lambda: [run.state(time.time()) for run in changed])
        async with self._changed:
            self._version += 1
            for run, state in zip(changed, states, strict=True):
                if run.is_gone:
                    for table in (self._runs, self._versions, self._summaries):
                        table.pop(run.id, None)
                    self._removed[run.id] = self._version
                else:
                    self._versions[run.id], self._summaries[run.id] = self._version, summary(state)
                    self._removed.pop(run.id, None)
            self._changed.notify_all()

    async def close(self) -> None:
        """Wake all waiting pages, so that their streams end."""
        self.is_closing = True
        async with self._changed:
            self._changed.notify_all()
