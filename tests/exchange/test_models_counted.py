"""Under which name usage is counted of models, when names come late and when clients make them up."""

from __future__ import annotations

from gateway.exchange.instruments import Registry
from gateway.exchange.model_metrics import ModelMetrics


def test_model_is_counted_by_its_name_from_when_a_list_has_it() -> None:
    models = ModelMetrics(Registry())
    other = models.of("gpt-4o")
    assert models.named["gpt-4o"] is other is models.of("made up")

    models.names.learn(["gpt-4o"])

    assert "gpt-4o" not in models.named
    assert models.of("gpt-4o") is models.named["gpt-4o"] is not other
    assert models.of("made up") is other


def test_what_is_kept_of_names_that_clients_make_up_is_bounded() -> None:
    models = ModelMetrics(Registry())

    for number in range(5_000):
        models.of(f"made up {number}")
    models.of("x" * 1_000_000)

    assert len(models.named) <= 1024
    assert max(len(name or "") for name in models.named) <= 128
