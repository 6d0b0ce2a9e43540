"""What becomes of the sound that a session was sent."""

from __future__ import annotations

from gateway.usage.heard import Heard


def sent(*sizes: int) -> Heard:
    """So much sound, event by event."""
    heard = Heard()
    for size in sizes:
        heard.add(55 + size * 4 // 3)
    return heard


def test_sound_waits_until_it_is_taken() -> None:
    heard = sent(3000, 3000)
    assert heard.waiting == 6000
    assert heard.take("item") == 6000
    assert heard.waiting == 0
    assert heard.take() == 0


def test_small_events_have_no_sound() -> None:
    heard = Heard()
    heard.add(20)
    assert heard.waiting == 0


def test_silence_before_speech_is_dropped_but_for_what_leads_into_it() -> None:
    heard = sent(6000)
    heard.speech_began(900)
    heard.add(55 + 4000)
    assert heard.take() == 3900
    heard.speech_began(900)
    assert heard.waiting == 0, "what was taken does not come back"


def test_each_item_is_written_down_once_in_any_order() -> None:
    heard = sent(300)
    heard.take("one")
    heard.add(55 + 800)
    heard.take("two")
    heard.add(55 + 1200)
    heard.take("three")
    assert heard.written_down("two") == 600
    assert heard.written_down("two") == 0
    assert heard.not_written_down() == 1200
    assert heard.not_written_down() == 0


def test_items_that_nobody_ever_writes_down_take_no_more_and_more_memory() -> None:
    heard = Heard()
    for number in range(1000):
        heard.add(55 + 4)
        heard.take(str(number))
    assert len(heard._items) == 256
    assert heard.not_written_down() == 3000
