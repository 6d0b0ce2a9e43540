"""What the simulator keeps, and when it lets go."""

from __future__ import annotations

import aiohttp
import pytest
from openai import (
    AsyncOpenAI,
    NotFoundError,
)

from gateway.simulator.forms import Content
from gateway.simulator.kinds import KINDS
from gateway.simulator.store import MAX_CONTENT_BYTES, MAX_OBJECTS, Store


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # assistants
class TestStore:
    async def test_a_list_is_paged_in_both_directions(self, sdk: AsyncOpenAI) -> None:
        made = [(await sdk.beta.assistants.create(model="m", name=str(n))).id for n in range(7)]
        page = await sdk.beta.assistants.list(limit=3)
        assert [a.id for a in page.data] == made[:3:-1]
        assert page.has_more
        assert [a.id async for a in page] == made[::-1]
        page = await sdk.beta.assistants.list(limit=3, order="asc", after=made[4])
        assert [a.id for a in page.data] == made[5:]
        assert not page.has_more
        page = await sdk.beta.assistants.list(limit=3, order="asc", before=made[4])
        assert [a.id for a in page.data] == made[1:4]
        assert page.has_more
        async with aiohttp.ClientSession() as session:
            listed = await (await session.get(f"{sdk.base_url}assistants?limit=2")).json()
        assert (listed["object"], listed["first_id"], listed["last_id"]) == ("list", made[6], made[5])

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=101", "limit=x", "after=asst_none", "before=asst_none"]
    )
    async def test_a_page_that_makes_no_sense_is_refused(
        self, http: aiohttp.ClientSession, query: str
    ) -> None:
        async with http.get(f"/v1/assistants?{query}") as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["param"] == query.partition("=")[0]

    async def test_an_object_is_updated_and_keeps_its_id(self, sdk: AsyncOpenAI) -> None:
        made = await sdk.beta.assistants.create(model="m", name="old", metadata={"a": "1"})
        changed = await sdk.beta.assistants.update(
            made.id, name="new", extra_body={"id": "asst_other", "object": "thread"}
        )
        assert (changed.id, changed.object, changed.name) == (made.id, "assistant", "new")
        assert (await sdk.beta.assistants.retrieve(made.id)).metadata == {"a": "1"}
        assert (await sdk.beta.assistants.delete(made.id)).object == "assistant.deleted"

    async def test_models_are_listed_and_read_whatever_their_name(self, sdk: AsyncOpenAI) -> None:
        names = [model.id async for model in sdk.models.list()]
        assert "ft:gpt-4o-mini:acme::abc" in names
        for name in names:
            assert (await sdk.models.retrieve(name)).owned_by == "simulator"
        with pytest.raises(NotFoundError) as refused:
            await sdk.models.retrieve("gpt-none")
        assert refused.value.type == "invalid_request_error"

    async def test_a_container_keeps_its_files(self, sdk: AsyncOpenAI) -> None:
        container = await sdk.containers.create(name="box")
        file = await sdk.containers.files.create(container.id, file=("a.txt", b"inside"))
        assert (file.bytes, file.container_id) == (6, container.id)
        content = await sdk.containers.files.content.retrieve(file.id, container_id=container.id)
        assert content.content == b"inside"
        assert [c.id async for c in sdk.containers.list()] == [container.id]
        await sdk.containers.delete(container.id)
        with pytest.raises(NotFoundError):
            await sdk.containers.files.retrieve(file.id, container_id=container.id)

    async def test_an_object_of_several_files_keeps_the_first(self, http: aiohttp.ClientSession) -> None:
        form = aiohttp.FormData({"name": "many"})
        for data in (b"first", b"second"):
            form.add_field("files[]", data, filename=f"{data!r}.txt")
        async with http.post("/v1/skills", data=form) as answer:
            made = await answer.json()
        assert (made["name"], made["bytes"]) == ("many", 5)
        async with http.get(f"/v1/skills/{made['id']}/content") as answer:
            assert await answer.read() == b"first"

    async def test_a_fine_tuning_job_is_made_and_cancelled(self, sdk: AsyncOpenAI) -> None:
        job = await sdk.fine_tuning.jobs.create(model="m", training_file="file-1")
        assert job.id.startswith("ftjob-")
        assert (await sdk.fine_tuning.jobs.cancel(job.id)).status == "cancelled"
        assert [event async for event in sdk.fine_tuning.jobs.list_events(job.id)] == []

    async def test_what_the_api_cannot_make_exists_when_asked_for(self, http: aiohttp.ClientSession) -> None:
        for path, expected in [
            ("/v1/organization/users/user-1", "user-1"),
            ("/v1/organization/spend_limit", "spend_limit"),
        ]:
            async with http.get(path) as answer:
                assert (await answer.json())["id"] == expected

    async def test_who_joins_a_project_keeps_their_own_id(self, http: aiohttp.ClientSession) -> None:
        async with http.post("/v1/organization/projects", json={"name": "p"}) as answer:
            project = f"/v1/organization/projects/{(await answer.json())['id']}"
        async with http.post(f"{project}/users", json={"user_id": "user-7", "role": "member"}) as answer:
            assert (await answer.json())["id"] == "user-7"
        async with http.get(f"{project}/users/user-7") as answer:
            assert (await answer.json())["role"] == "member"

    def test_what_hangs_under_a_deleted_object_is_gone(self) -> None:
        store = Store()
        for path in ("/v1/threads/t", "/v1/threads/t/runs/r", "/v1/threads/t/runs/r/steps/s"):
            collection, _, named = path.rpartition("/")
            store.create(collection, KINDS["run"], {}, id=named)
        store.create("/v1/threads/other/runs", KINDS["run"], {}, id="kept")
        store.delete("/v1/threads/t")
        assert store.all("/v1/threads/t/runs") == store.all("/v1/threads/t/runs/r/steps") == []
        assert store.has("/v1/threads/other/runs/kept")

    def test_the_oldest_objects_and_bytes_give_way(self) -> None:
        store = Store()
        for n in range(MAX_OBJECTS + 1):
            store.create("/v1/files", KINDS["file"], {}, id=f"file-{n}")
        assert not store.has("/v1/files/file-0")
        assert store.has("/v1/files/file-1")
        size_bytes = MAX_CONTENT_BYTES // 2
        for n in (1, 2, 3):
            store.keep(f"/v1/files/file-{n}", Content.of("f", "text/plain", bytes(size_bytes)))
        first, last = store.content("/v1/files/file-1"), store.content("/v1/files/file-3")
        assert first is not None
        assert last is not None
        assert (first.kept, first.length_bytes) == (b"", size_bytes)
        assert len(last.kept) == size_bytes
