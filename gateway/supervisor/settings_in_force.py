"""The settings that all workers work by, and how they change: in every worker or in none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gateway.app.messages import Message, OtherEndGone
from gateway.settings.document import to_json
from gateway.settings.effect import followed
from gateway.settings.section import Problem, SettingsInvalid
from gateway.settings.settings import Settings
from gateway.supervisor.worker import Worker

PREPARE_SECONDS = 30.0

_OF_A_STOP = ("keys_dir", "drain_notice_seconds", "drain_seconds")
"""`keys_dir` is here only because nothing is judged without one, and its default is in a home that nobody may have."""


class SettingsInForce:
    """What workers are started with, as a document and with a number that grows with every change."""

    def __init__(
        self,
        values: Mapping[str, Any],
        workers: Callable[[], Iterable[Worker]],
        *,
        unable: Callable[[Worker, str], None],
    ) -> None:
        """`unable` is told of a worker that cannot take what is in force, and why."""
        self.values = values
        self.document = to_json(values)
        self.number = 1
        self._numbers = 1
        self._changing = asyncio.Lock()
        self._workers = workers
        self._unable = unable
        self._catching_up: set[asyncio.Task[None]] = set()
        self._being_told: set[Worker] = set()

    @property
    def of_a_stop(self) -> Settings:
        """Those by which the supervisor itself goes at a stop; workers of a later release may have others, too."""
        return Settings.model_validate(
            {name: self.values[name] for name in _OF_A_STOP if name in self.values}
        )

    def next_number(self) -> int:
        """The number of settings that somebody is to try, greater than that of any before."""
        self._numbers += 1
        return self._numbers

    def replace(self, values: Mapping[str, Any], number: int) -> None:
        """Take over what a worker has come up with, under its number; what was changed meanwhile stays changed."""
        if number < self.number:
            values, number = followed(values, self.values), self.next_number()
        self._put(values, number)

    def _put(self, values: Mapping[str, Any], number: int) -> None:
        self.values, self.document, self.number = values, to_json(values), number

    async def take(self, values: Mapping[str, Any]) -> list[str]:
        """Have every worker that turns take these, or none; returns the names of what waits for a start.

        Raises SettingsInvalid with what any of them says against it.
        """
        async with self._changing:
            number = self.next_number()
            voters = [worker for worker in self._workers() if worker.turns]
            answers = await _all_prepared(voters, to_json(values), number)
            problems = dict.fromkeys(
                (problem["key"], problem["message"]) for answer in answers for problem in answer["problems"]
            )
            if problems:
                for worker in voters:
                    worker.say("forget", number=number)
                raise SettingsInvalid([Problem(key, message) for key, message in problems])
            # Who is started from now on must work by what its neighbours work by: what waits goes on waiting.
            # They may have changed since they were asked, by a restart: whoever came up then is told the rest.
            self._put(followed(self.values, values), self.next_number())
            for worker in voters:
                worker.say("commit", number=number)
                worker.settings_number = self.number
            return sorted({name for answer in answers for name in answer["waiting"]})

    def look(self) -> None:
        """Bring those up to date who came up, or whose loop turned again, after the last change."""
        if self._changing.locked():
            return
        for worker in self._workers():
            if worker.turns and worker.settings_number < self.number and worker not in self._being_told:
                self._being_told.add(worker)
                task = asyncio.create_task(self._catch_up(worker))
                self._catching_up.add(task)
                task.add_done_callback(self._catching_up.discard)

    async def _catch_up(self, worker: Worker) -> None:
        number = self.number
        try:
            answer = await _prepared(worker, self.document, number)
            if not answer["problems"]:
                worker.say("commit", number=number)
                worker.settings_number = number
            else:
                worker.settings_number = number  # until it goes, with what it has
                worker.is_outdated = True
                why = "; ".join(f"{problem['key']}: {problem['message']}" for problem in answer["problems"])
                self._unable(worker, why)
        finally:
            self._being_told.discard(worker)


async def _all_prepared(workers: Iterable[Worker], document: bytes, number: int) -> list[Message]:
    return await asyncio.gather(*(_prepared(worker, document, number) for worker in workers))


async def _prepared(worker: Worker, document: bytes, number: int) -> Message:
    """What a worker says to new settings. One that is gone, or goes, has no say; one that does not answer refuses."""
    nothing: Message = {"problems": [], "waiting": []}
    try:
        async with asyncio.timeout(PREPARE_SECONDS):
            answer = await worker.ask("prepare", document, number=number)
    except OtherEndGone:
        return nothing
    except TimeoutError:
        text = f"worker {worker.place.index} does not answer"
        return (
            nothing
            if worker.is_leaving or worker.is_outdated
            else {"problems": [{"key": "workers", "message": text}], "waiting": []}
        )
    return {**answer, "problems": []} if worker.is_leaving or worker.is_outdated else answer
