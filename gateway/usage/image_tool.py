"""The tool with which an answer that is a text makes images as well. Pure."""

from __future__ import annotations

IMAGE_TOOL = "image_generation"


def offers_images(tools: object) -> bool:
    """Whether the tools of a body have one that makes images, grouped in a namespace or not. Linear in their number."""
    pending = [tools]
    while pending:
        group = pending.pop()
        if not isinstance(group, list):
            continue
        for tool in group:
            if isinstance(tool, dict):
                kind = tool.get("type")
                if isinstance(kind, str) and kind.startswith(IMAGE_TOOL):
                    return True
                if "tools" in tool:
                    pending.append(tool["tools"])
    return False
