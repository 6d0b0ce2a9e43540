"""What is done at the upstream, one step after the other, each of them said in words before it is done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

import aiohttp

from gateway.cli.drawing import remark, say, shown
from gateway.cli.options import date, in_words
from gateway.cli.upstream.admin_api import (
    AdminApi,
    JsonObject,
    Refused,
    Unavailable,
    Unclear,
    below,
    keeps_trying,
)
from gateway.cli.upstream.found import Key
from gateway.cli.upstream.target import Target
from gateway.policy.accounts import listed

_MOST_UNCLEAR = 4
_SETTLING_SECONDS = 1.0
"""In which what was made is seen by who looks for it."""

ACCEPTED_SECONDS = 30.0
"""In which a new key is accepted everywhere at the upstream."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done."""

    words: str
    do: Callable[[], Awaitable[None]]
    looks_again: bool = False
    """Whether what comes next is known only when it is done."""

    is_missing: bool = True
    """Whether without it something is not as it should be; else it is worth a try."""


@dataclass(slots=True)
class Plan:
    """What is to be done, as far as it can be known now."""

    steps: list[Step] = field(default_factory=list)
    then: list[str] = field(default_factory=list)
    """What will be done after that, where it cannot be known yet."""

    remarks: list[str] = field(default_factory=list)
    """What is good to know, and not done."""


async def carry_out(plan: Callable[[], Awaitable[Plan]], *, apply: bool) -> bool:
    """Look, and do what is missing until nothing is; or only say it. Whether anything was missing.

    Raises Refused, Unavailable, OSError and ValueError. Whatever ends it, the next look sees how far it came.
    """
    had_steps, unclear = False, 0
    said: set[str] = set()
    while True:
        planned = await plan()
        remark(*(text for text in planned.remarks if text not in said))
        said.update(planned.remarks)
        had_steps = had_steps or any(step.is_missing for step in planned.steps)
        if not apply:
            for number, words in enumerate([*(step.words for step in planned.steps), *planned.then], 1):
                say(f"{number}. {words}")
            return had_steps
        for step in planned.steps:
            say(step.words)
            try:
                await step.do()
            except Unclear as why:
                unclear += 1
                if unclear == _MOST_UNCLEAR:
                    raise Unavailable(f"the upstream cannot be asked: {why}. Run this again") from None
                remark(f"{why}: whether it was done is not known; looking again")
                await asyncio.sleep(_SETTLING_SECONDS)
                break
            if step.looks_again:
                break
        else:
            return had_steps


class Hands:
    """Makes the steps for one tenant."""

    def __init__(self, api: AdminApi, session: aiohttp.ClientSession, target: Target) -> None:
        self._api = api
        self._session = session
        self._target = target

    def make_project(self) -> Step:
        """A project by the name that says whose it is."""
        name = self._target.project_name

        async def do() -> None:
            try:
                await self._api.make("/projects", {"name": name})
            except Refused as refused:
                raise Refused(
                    refused.status,
                    f"the project cannot be made: {refused}. An organization has 2,000 at most unless agreed "
                    "otherwise, and `gateway upstream list` says how many there are",
                ) from None

        return Step(f"Make the project {name}.", do, looks_again=True)

    def lower(self, project_id: str, rows: Sequence[JsonObject], limits: dict[str, int]) -> Step:
        """Let some models have less."""

        async def do() -> None:
            for row in rows:
                await self._limit(project_id, row, limits)

        return Step(f"Limit {_models(rows)}: {_from_to(rows[0], limits)}.", do)

    def raise_if_allowed(self, project_id: str, rows: Sequence[JsonObject], limits: dict[str, int]) -> Step:
        """Let some models have more, unless the organization has no more itself."""

        async def do() -> None:
            kept: list[JsonObject] = []
            why = ""
            for row in rows:
                try:
                    await self._limit(project_id, row, limits)
                except Refused as refused:
                    if refused.status != HTTPStatus.BAD_REQUEST:
                        raise
                    kept.append(row)
                    why = why or str(refused)
            if kept:
                remark(f"{_models(kept)}: as before, {why}")

        words = (
            f"Raise the limits of {_models(rows)}, if the upstream allows it: {_from_to(rows[0], limits)}."
        )
        return Step(words, do, is_missing=False)

    async def _limit(self, project_id: str, row: JsonObject, limits: dict[str, int]) -> None:
        await self._api.change(below("projects", project_id, "rate_limits", str(row["id"])), limits)

    def set_spend_limit(self, project_id: str, cents: int) -> Step:
        """What may be spent in a month."""

        async def do() -> None:
            amount = {"threshold_amount": cents, "currency": "USD", "interval": "month"}
            await self._api.change(below("projects", project_id, "spend_limit"), amount)

        return Step(f"Limit what it spends in a month to {cents / 100:,.2f} USD.", do)

    def drop_pending(self) -> Step:
        """Forget a key in our file that the upstream does not know, or that one was about to be made."""
        file = self._target.file
        what = "whose key is no longer any" if file.pending() else "left by a command that was interrupted"

        async def do() -> None:
            file.drop_pending()

        return Step(f"Delete {file.pending_path}, {what}.", do)

    def delete_key(self, project_id: str, key: Key, why: str, *, with_account: bool) -> Step:
        """A key and the service account that has it."""
        path = below("projects", project_id)

        async def do() -> None:
            try:
                await self._api.delete(f"{path}{below('api_keys', key.id)}")
            except Refused as refused:
                # There is an API that lets go of a service account's key with the account alone.
                if refused.status != HTTPStatus.BAD_REQUEST or not with_account:
                    raise
            if with_account:
                await self._api.delete(f"{path}{below('service_accounts', key.account_id)}")

        return Step(f"Delete the key {shown(key.id)}, made {date(key.created_at)}: {why}.", do)

    def delete_account(self, project_id: str, account_id: str) -> Step:
        """A service account without a key."""

        async def do() -> None:
            await self._api.delete(below("projects", project_id, "service_accounts", account_id))

        return Step(f"Delete the service account {shown(account_id)}, which has no key.", do)

    def make_key(self, project_id: str) -> Step:
        """A service account with a key, which is written beside the file."""
        target = self._target
        path = below("projects", project_id, "service_accounts")

        async def do() -> None:
            target.file.announce()
            body = {"name": target.project_name, "expires_in_seconds": target.lifetime_seconds}
            try:
                made = await self._api.make(path, body)
            except Refused:
                target.file.drop_pending()
                raise
            told = made.get("api_key")
            if not isinstance(told, dict) or not isinstance(told.get("value"), str):
                raise Unavailable("a service account was made, and no key was told; run this again")
            try:
                target.file.keep(told["value"])
            except (OSError, ValueError):
                await self._api.delete(f"{path}{below(str(made.get('id')))}")  # nobody could ever use it
                raise
            if told.get("expires_at") is None:
                remark("the upstream has given the key no expiry")

        return Step(
            f"Make a service account {target.project_name} with a key that expires in "
            f"{in_words(target.lifetime_seconds)}.",
            do,
        )

    def put_in_force(self, project_id: str) -> Step:
        """Let the new key take the file's place, once the upstream accepts it."""
        target = self._target

        async def do() -> None:
            key = target.file.pending()
            if key is None:
                raise ValueError(f"{target.file.pending_path} is gone; run this again")

            async def ask() -> bool:
                return await self.accepts(key, project_id) is True

            if not await keeps_trying(ask, for_seconds=ACCEPTED_SECONDS):
                raise Unavailable(
                    f"{target.base_url} has not accepted the new key within {ACCEPTED_SECONDS:g} seconds; "
                    f"it waits in {target.file.pending_path}, and running this again goes on with it"
                )
            target.file.put_in_force()

        return Step(f"When {target.base_url} accepts it, write it to {target.file.path} (mode 0600).", do)

    def wait(self, seconds: float, *, since: float | None = None) -> Step:
        """Let every gateway take the new key over."""

        async def do() -> None:
            left = seconds - (0 if since is None else time.time() - since)
            if left > 0:
                remark(f"{in_words(round(left))} to go; Ctrl-C leaves the rest to the next `rotate`")
                await asyncio.sleep(left)

        return Step(
            f"Wait until it has been in force for {in_words(seconds)}, so that every gateway has taken it over.",
            do,
        )

    def archive(self, project_id: str) -> Step:
        """End a project, for ever."""

        async def do() -> None:
            try:
                await self._api.make(below("projects", project_id, "archive"), {})
            except Refused as refused:
                if refused.status not in (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND):
                    raise
                remark(f"{shown(project_id)}: {refused}")

        return Step(f"Archive the project {shown(project_id)}.", do)

    async def accepts(self, key: str, project_id: str | None) -> bool | None:
        """Whether the upstream takes a key; None: it does not say."""
        headers = {"Authorization": f"Bearer {key}"}
        if project_id is not None:
            headers["OpenAI-Project"] = project_id
        url = f"{self._target.base_url}/models"
        try:
            async with self._session.get(url, headers=headers, allow_redirects=False) as answer:
                match answer.status:
                    case 200:
                        return True
                    case 401:
                        return False
                    case _:
                        return None
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None


def _models(rows: Sequence[JsonObject]) -> str:
    return listed([shown(str(row.get("model"))) for row in rows])


def _from_to(row: JsonObject, limits: dict[str, int]) -> str:
    return ", ".join(f"{name} from {row[name]} to {n}" for name, n in limits.items())


def kept_accounts(keys: Sequence[Key]) -> set[str]:
    """The service accounts of these keys."""
    return {key.account_id for key in keys}
