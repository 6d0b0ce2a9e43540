"""Record what groups and patterns mean at the table's newest version, once it is released and credentials name it.

    python -m tests.operations.versions

From then on that version may mean less, and never more; what is added belongs to the next.
"""

from __future__ import annotations

from pathlib import Path

import orjson

from gateway.operations.scopes import EVERYTHING, GROUPS, Vocabulary
from gateway.operations.table import OperationTable

RECORD = Path(__file__).parent / "versions.json"
SCOPES = "all scopes"


def recorded() -> dict[int, dict[str, set[str]]]:
    """By version, all scopes of it, and what each group and `*` meant."""
    document = orjson.loads(RECORD.read_bytes())
    return {
        int(version): {word: set(scopes) for word, scopes in words.items()}
        for version, words in document.items()
    }


def meanings(vocabulary: Vocabulary, version: int) -> dict[str, set[str]]:
    """What there is to record of a version."""
    words = {word: set(vocabulary.meaning([word], version)) for word in (EVERYTHING, *GROUPS)}
    return {SCOPES: set(vocabulary.at(version)), **words}


def main() -> None:
    vocabulary = OperationTable.load().vocabulary
    record = {**recorded(), vocabulary.version: meanings(vocabulary, vocabulary.version)}
    document = {
        str(version): {word: sorted(scopes) for word, scopes in words.items()}
        for version, words in sorted(record.items())
    }
    RECORD.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


if __name__ == "__main__":
    main()
