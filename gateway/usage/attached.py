"""What is attached to a prompt: images, audio and files, and how many LLM tokens they are taken for. Pure.

An attachment is one only where the API takes one: a part of a message's content, of an output that goes back to the
model, or of a variable of a stored prompt, by its type and by the member that this type has for it. The same names
anywhere else, in texts, tools, schemas or metadata, are names like others, and what they hold is text.

Nobody has decoded what is attached, so it is guessed from its kind and size; docs/limits-and-usage.md has the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

IMAGE = {"low": 85, "high": 1500, "auto": 1500, "original": 10_000}
"""LLM tokens of an image by its level of detail: about what one costs at most at that level.

Its size is not looked at: what a tile of it costs differs more from model to model than from image to image."""

DEAR_IMAGES = {"gpt-4o-mini": 34}
"""How many times as many LLM tokens an image is for models whose names begin so."""

IMAGE_AS_IT_COMES = IMAGE["auto"]
"""Of an image of no level that is known here."""

AUDIO_PER_SECOND = 10
"""LLM tokens of a second of audio."""

WAVE_BYTES_PER_SECOND = 16_000
"""Of audio that begins as a WAV file does, whatever format is stated: 8,000 samples of 16 bits."""

AUDIO_BYTES_PER_SECOND = 2000
"""Of any other audio, and of video: 16 kbit/s."""

FILE_BYTES_PER_LLM_TOKEN = 4

MOST_OF_A_FILE = 200_000
"""LLM tokens that one file is taken for at most: more fits into few models."""

NAMED_FILE = 5000
"""LLM tokens of a file that is somewhere else."""

_WAVE = "UklGR"
"""How RIFF begins in base64."""

_CONVERSATIONS = ("messages", "input", "additional_messages")

_OUTPUTS = ("output", "outputs")
"""Members of what tools have answered."""

_Worth = tuple[int, int]
"""Bytes of the body that are no text, and the LLM tokens that they are taken for."""

_NOTHING: _Worth = 0, 0


def attachments(document: Mapping[str, Any]) -> _Worth:
    """What all attachments of a body are worth together; linear in its size."""
    parts: list[Any] = []
    for name in _CONVERSATIONS:
        if type(items := document.get(name)) is list:
            _add_parts(parts, items)
    if type(thread := document.get("thread")) is dict and type(items := thread.get("messages")) is list:
        _add_parts(parts, items)
    if type(prompt := document.get("prompt")) is dict and type(values := prompt.get("variables")) is dict:
        parts += values.values()
    if not parts:
        return _NOTHING
    no_text_bytes, of_images, of_others = 0, 0, 0
    for part in parts:
        if type(part) is dict and type(kind := part.get("type")) is str and (worth := _WORTH.get(kind)):
            size, tokens = worth(part)
            no_text_bytes += size
            if kind in _IMAGES:
                of_images += tokens
            else:
                of_others += tokens
    if of_images and type(model := document.get("model")) is str:
        of_images *= next((times for name, times in DEAR_IMAGES.items() if model.startswith(name)), 1)
    return no_text_bytes, of_images + of_others


def _add_parts(parts: list[Any], items: list[Any]) -> None:
    """Add whatever stands where an attachment could, in messages and what else goes up in their place."""
    if not items or type(items[0]) is not dict:
        return  # texts or numbers, of which there may be many
    for item in items:
        if type(item) is not dict:
            continue
        if type(content := item.get("content")) is list:
            parts += content
        if "type" not in item:
            continue
        parts.append(item)
        for member in _OUTPUTS:
            if type(output := item.get(member)) is list:
                parts += output
            elif type(output) is dict:
                parts.append(output)


def _size(text: object) -> int:
    """Bytes of a text that is no text, as they were counted."""
    if type(text) is not str:
        return 0
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _image(place: Any, detail: object, member: str) -> _Worth:
    """An image that stands under a member, or is named there or beside it."""
    worth = IMAGE.get(detail, IMAGE_AS_IT_COMES) if type(detail) is str else IMAGE_AS_IT_COMES
    return _size(place.get(member)), worth


def _image_url(part: dict[str, Any]) -> _Worth:
    image = part.get("image_url")
    if type(image) is dict:
        return _image(image, image.get("detail"), "url")
    return _image(part, part.get("detail"), "image_url")


def _input_image(part: dict[str, Any]) -> _Worth:
    return _image(part, part.get("detail"), "image_url")


def _image_file(part: dict[str, Any]) -> _Worth:
    image = part.get("image_file")
    return _image(image, image.get("detail"), "file_id") if type(image) is dict else _NOTHING


def _image_drawn(part: dict[str, Any]) -> _Worth:
    """Of what a code interpreter has drawn, or as Anthropic's messages have one."""
    source = part.get("source")
    if type(source) is dict:
        return _image(source, None, "data" if "data" in source else "url")
    return _image(part, None, "url")


def _image_made(part: dict[str, Any]) -> _Worth:
    return _size(part.get("result")), IMAGE_AS_IT_COMES


def _audio(part: dict[str, Any]) -> _Worth:
    audio = part.get("input_audio")
    if type(audio) is not dict or type(data := audio.get("data")) is not str:
        return _NOTHING
    size = _size(data)
    rate = WAVE_BYTES_PER_SECOND if data.startswith(_WAVE) else AUDIO_BYTES_PER_SECOND
    return size, _over(size * AUDIO_PER_SECOND, rate)


def _media_url(member: str) -> Callable[[dict[str, Any]], _Worth]:
    """Audio and video as other servers take them."""

    def worth(part: dict[str, Any]) -> _Worth:
        media = part.get(member)
        url = media.get("url") if type(media) is dict else media
        size = _size(url)
        if type(url) is str and url.startswith("data:"):
            return size, _over(size * AUDIO_PER_SECOND, AUDIO_BYTES_PER_SECOND)
        return size, NAMED_FILE

    return worth


def _file(part: dict[str, Any]) -> _Worth:
    file = part.get("file")
    return _input_file(file) if type(file) is dict else _NOTHING


def _input_file(part: dict[str, Any]) -> _Worth:
    data = part.get("file_data")
    if type(data) is not str:
        return _size(part.get("file_url")), NAMED_FILE
    size = _size(data)
    return size, min(_over(size, FILE_BYTES_PER_LLM_TOKEN), MOST_OF_A_FILE)


def _document(part: dict[str, Any]) -> _Worth:
    """A file as Anthropic's messages have one; a text stays a text."""
    source = part.get("source")
    if type(source) is not dict or source.get("type") == "text":
        return _NOTHING
    return _input_file({"file_data": source.get("data"), "file_url": source.get("url")})


def _tool_result(part: dict[str, Any]) -> _Worth:
    """What a tool has answered, in the middle of a message."""
    content = part.get("content")
    found = [
        worth(inner)
        for inner in (content if type(content) is list else ())
        if type(inner) is dict and type(kind := inner.get("type")) is str and (worth := _WORTH.get(kind))
    ]
    return sum(size for size, _ in found), sum(tokens for _, tokens in found)


def _over(base64_bytes: int, each: int) -> int:
    """How often `each` goes into what so many bytes of base64 stand for, rounded up."""
    return -(-base64_bytes * 3 // (4 * each))


_IMAGES = frozenset(
    {"image", "image_url", "input_image", "computer_screenshot", "image_file", "image_generation_call"}
)

_WORTH: Mapping[str, Callable[[dict[str, Any]], _Worth]] = {
    "image_url": _image_url,
    "input_image": _input_image,
    "computer_screenshot": _input_image,
    "image_file": _image_file,
    "image": _image_drawn,
    "image_generation_call": _image_made,
    "input_audio": _audio,
    "audio_url": _media_url("audio_url"),
    "video_url": _media_url("video_url"),
    "file": _file,
    "input_file": _input_file,
    "document": _document,
    "tool_result": _tool_result,
}
"""What a part is worth, by its type."""
