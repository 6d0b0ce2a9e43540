"""`gateway check` of a configuration that a test writes."""

from __future__ import annotations

from pathlib import Path

from tests.kit.command import Completed, run_command


async def check(directory: Path, text: str, *more: str, **environ: str) -> Completed:
    """What it says of this file; keys lie beside that unless something says otherwise."""
    file = directory / "gateway.toml"
    file.write_text(text)
    keys = () if "keys_dir" in text or "--keys-dir" in more else ("--keys-dir", str(directory / "keys"))
    return await run_command("check", "--config", str(file), *keys, *more, **environ)
