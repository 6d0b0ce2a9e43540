from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.upstream.organization import Organization, running_organization


@pytest.fixture
async def organization(tmp_path: Path) -> AsyncIterator[Organization]:
    async with running_organization(tmp_path) as running:
        yield running
