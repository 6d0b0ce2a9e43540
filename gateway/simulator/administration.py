"""The organization behind the simulator: projects, their service accounts, keys and limits.

A key that was minted here is good for its project alone, with stored objects of its own, until it expires or is
deleted; a key that nobody minted shares the simulator's first store with all others of its like.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from gateway.simulator.call import Call, Handler, JsonObject, Reply, as_json
from gateway.simulator.errors import ApiError
from gateway.simulator.kinds import KINDS
from gateway.simulator.store import MAX_OBJECTS, Store, now

MOST_PROJECTS: Final = 2_000
_MINTED: Final = "sk-svcacct-simulated-"
_PROJECTS: Final = "/v1/organization/projects"
_MOST_KEY_SECONDS: Final = 366 * 86_400
_SHOWN_LETTERS: Final = 4
_LIMITS: Final = {"max_requests_per_1_minute": 10_000, "max_tokens_per_1_minute": 2_000_000}
_LIMITS_OF_MODELS: Final[dict[str, JsonObject]] = {
    "gpt-4o": {"max_requests_per_1_day": 1_000_000, "batch_1_day_max_input_tokens": 5_000_000},
    "gpt-4o-mini": {"batch_1_day_max_input_tokens": 20_000_000},
    "gpt-4.1": {"batch_1_day_max_input_tokens": 5_000_000},
    "gpt-image-1": {"max_images_per_1_minute": 150},
    "dall-e-3": {"max_images_per_1_minute": 500},
    "whisper-1": {"max_audio_megabytes_per_1_minute": 100},
    "text-embedding-3-small": {},
}
_RATE_LIMITS: Final = frozenset(_LIMITS).union(*_LIMITS_OF_MODELS.values())


@dataclass(slots=True)
class _Minted:
    """What a minted key opens."""

    project_id: str
    key: JsonObject


@dataclass(slots=True)
class Organization:
    """Who may come in, and to which objects."""

    api_key: str | None
    """The one key beside minted ones; None: any."""

    admin_api_key: str | None
    """The one key that administers; None: as any other that nobody minted."""

    store: Store
    """What is stored for keys that nobody minted; projects themselves are here, too."""

    models: Iterable[str]
    most_projects: int = MOST_PROJECTS
    _minted: dict[str, _Minted] = field(default_factory=dict)
    _stores: dict[str, Store] = field(default_factory=dict)

    def store_for(self, request: web.Request, *, administers: bool) -> Store:
        """The objects that a request may reach. Raises ApiError for one that may reach none."""
        presented = request.headers.get("Authorization", "")
        key = presented.removeprefix("Bearer ")
        if key.startswith(_MINTED):
            return self._store_of(key, request.headers.get("OpenAI-Project"), administers=administers)
        opens_socket = key.startswith("ek_") and request.path == "/v1/realtime"
        wanted = self.api_key
        if administers and self.admin_api_key is not None:
            wanted = self.admin_api_key
        if wanted is not None and presented != f"Bearer {wanted}" and not opens_socket:
            message = "Incorrect API key provided. This simulator accepts exactly one."
            raise ApiError(401, message, code="invalid_api_key")
        return self.store

    def _store_of(self, key: str, project_id: str | None, *, administers: bool) -> Store:
        minted = self._minted.get(key)
        if minted is None:
            raise ApiError(401, "Incorrect API key provided: it was deleted.", code="invalid_api_key")
        if (minted.key["expires_at"] or now() + 1) <= now():
            raise ApiError(401, "Incorrect API key provided: it has expired.", code="invalid_api_key")
        if administers:
            message = "You have insufficient permissions for this operation: it needs an admin key."
            raise ApiError(403, message, code="insufficient_permissions")
        if project_id not in (None, minted.project_id):
            message = "OpenAI-Project header should match project for API key"
            raise ApiError(401, message, code="mismatched_project")
        minted.key["last_used_at"] = now()
        return self._stores[minted.project_id]

    async def create_project(self, call: Call) -> Reply:
        """With the rate limits that projects begin with, one for each model."""
        body = await call.body("name")
        active = [one for one in self.store.all(_PROJECTS) if one["status"] == "active"]
        if len(active) >= self.most_projects:
            message = f"This organization has reached its limit of {self.most_projects:,} projects."
            raise ApiError(400, message, code="project_limit_reached")
        made = self.store.create(_PROJECTS, KINDS["project"], body)
        for model, own in _LIMITS_OF_MODELS.items():
            fields = {"model": model} | _LIMITS | own
            collection = f"{_PROJECTS}/{made['id']}/rate_limits"
            self.store.put(collection, {"id": f"rl-{model}", "object": "project.rate_limit"} | fields)
        self._stores[made["id"]] = stocked(self.models)
        return as_json(made)

    async def list_projects(self, call: Call) -> Reply:
        """Without those that are archived, unless they are asked for."""
        query = dict(call.request.query)
        if query.get("include_archived") != "true":
            query["status"] = "active"
        return as_json(self.store.page(_PROJECTS, query, KINDS["project"]))

    async def archive_project(self, call: Call) -> Reply:
        """Nothing opens it any more."""
        project = self._project(call)
        if project["status"] == "archived":
            raise ApiError(400, "Cannot archive an object with status 'archived'.")
        project |= {"status": "archived", "archived_at": now()}
        self._forget(lambda one: one.project_id == project["id"])
        return as_json(project)

    async def create_service_account(self, call: Call) -> Reply:
        """With a key that is told this once."""
        body = await call.body("name")
        self._check_active(call)
        made = self.store.create(
            f"{self._path(call)}/service_accounts", KINDS["project_service_account"], body
        )
        shown = {name: made[name] for name in ("id", "object", "name", "created_at")}
        if body.get("create_service_account_only"):
            return as_json(shown | {"role": "none", "api_key": None})
        return as_json(shown | {"role": "member", "api_key": self._mint(call, made, body)})

    async def create_key(self, call: Call) -> Reply:
        """One more for a service account."""
        self._check_active(call)
        owner = self.store.get(f"{self._path(call)}/service_accounts/{call.params['service_account_id']}")
        return as_json(self._mint(call, owner, await call.body()))

    async def delete_service_account(self, call: Call) -> Reply:
        """And its keys."""
        account_id = call.params["service_account_id"]
        self.store.delete(f"{self._path(call)}/service_accounts/{account_id}")
        collection = f"{self._path(call)}/api_keys"
        for key in self.store.all(collection):
            if key["owner"]["service_account"]["id"] == account_id:
                self._delete_key(collection, key["id"])
        name = "organization.project.service_account.deleted"
        return as_json({"id": account_id, "object": name, "deleted": True})

    async def delete_key(self, call: Call) -> Reply:
        """Of whomever it is."""
        key_id = call.params["key_id"]
        self._delete_key(f"{self._path(call)}/api_keys", key_id)
        return as_json({"id": key_id, "object": "organization.project.api_key.deleted", "deleted": True})

    async def update_rate_limit(self, call: Call) -> Reply:
        """Down from where it was at the beginning, and up to there."""
        body = await call.body()
        found = self.store.get(f"{self._path(call)}/rate_limits/{call.params['rate_limit_id']}")
        most = _LIMITS | _LIMITS_OF_MODELS[found["model"]]
        for name, value in body.items():
            if name not in _RATE_LIMITS or name not in most:
                raise ApiError(400, f"'{name}' is no limit of this model.", param=name)
            if not isinstance(value, int) or not 0 <= value <= most[name]:
                message = f"'{name}' must be between 0 and the organization's {most[name]:,}."
                raise ApiError(400, message, param=name)
        found |= body
        return as_json(found)

    async def read_spend_limit(self, call: Call) -> Reply:
        return as_json(self.store.get(f"{self._path(call)}/spend_limit"))

    async def update_spend_limit(self, call: Call) -> Reply:
        """One for each month, in cents."""
        body = await call.body("threshold_amount", "currency", "interval")
        self._check_active(call)
        cents = body["threshold_amount"]
        if (
            not isinstance(cents, int)
            or cents < 0
            or (body["currency"], body["interval"]) != ("USD", "month")
        ):
            raise ApiError(400, "Expected an amount of whole cents, USD and month.", param="threshold_amount")
        limit = {"id": "spend_limit", "object": "project.spend_limit"} | body
        self.store.put(self._path(call), limit | {"enforcement": {"status": "inactive"}})
        return as_json(self.store.get(f"{self._path(call)}/spend_limit"))

    async def delete_spend_limit(self, call: Call) -> Reply:
        self.store.delete(f"{self._path(call)}/spend_limit")
        return as_json({"object": "project.spend_limit.deleted", "deleted": True})

    def handlers(self) -> dict[str, Handler]:
        """By operation id."""
        return {
            "createProject": self.create_project,
            "listProjects": self.list_projects,
            "archiveProject": self.archive_project,
            "createProjectServiceAccount": self.create_service_account,
            "createAnApiKeyForAServiceAccount": self.create_key,
            "deleteProjectServiceAccount": self.delete_service_account,
            "deleteProjectApiKey": self.delete_key,
            "updateProjectRateLimits": self.update_rate_limit,
            "getProjectSpendLimit": self.read_spend_limit,
            "updateProjectSpendLimit": self.update_spend_limit,
            "deleteProjectSpendLimit": self.delete_spend_limit,
        }

    def _path(self, call: Call) -> str:
        return f"{_PROJECTS}/{call.params['project_id']}"

    def _project(self, call: Call) -> JsonObject:
        return self.store.get(self._path(call))

    def _check_active(self, call: Call) -> None:
        if self._project(call)["status"] != "active":
            raise ApiError(400, "This project is archived.", param="project_id")

    def _mint(self, call: Call, owner: JsonObject, body: JsonObject) -> JsonObject:
        seconds = body.get("expires_in_seconds")
        if seconds is not None and not (isinstance(seconds, int) and 0 < seconds <= _MOST_KEY_SECONDS):
            message = f"Expected a number of seconds up to {_MOST_KEY_SECONDS}."
            raise ApiError(400, message, param="expires_in_seconds")
        value = f"{_MINTED}{secrets.token_urlsafe(24)}"
        account = {name: owner[name] for name in ("id", "name", "created_at")} | {"role": "member"}
        fields = {
            "name": body.get("name") or "Secret Key",
            "expires_at": None if seconds is None else now() + seconds,
            "redacted_value": f"{value[:_SHOWN_LETTERS]}...{value[-_SHOWN_LETTERS:]}",
            "owner": {"type": "service_account", "service_account": account},
        }
        key = self.store.create(f"{self._path(call)}/api_keys", KINDS["project_api_key"], fields)
        self._minted[value] = _Minted(call.params["project_id"], key)
        shown = {name: key[name] for name in ("id", "name", "created_at", "expires_at")}
        return shown | {"object": "organization.project.service_account.api_key", "value": value}

    def _delete_key(self, collection: str, key_id: str) -> None:
        self.store.delete(f"{collection}/{key_id}")
        self._forget(lambda one: one.key["id"] == key_id)

    def _forget(self, gone: Callable[[_Minted], bool]) -> None:
        self._minted = {value: one for value, one in self._minted.items() if not gone(one)}


def stocked(models: Iterable[str], *, most_objects: int = MAX_OBJECTS) -> Store:
    """A store in which nothing is but the models."""
    store = Store(most_objects=most_objects)
    for name in models:
        store.create("/v1/models", KINDS["model"], {"created": 0}, id=name)
    return store
