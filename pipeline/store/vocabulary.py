"""Which labels and languages there are, to distinguish a mistyped one from a search that finds nothing."""

from dataclasses import dataclass

from pipeline.foundation.formatting import did_you_mean
from pipeline.store.database import Database
from pipeline.store.queries import QUERIES
from pipeline.store.search_query import Query

MOST_NAMED = 20
# From one value to the next by the index, however many rows have each.
_LABELS = (
    "WITH RECURSIVE known (label) AS ((SELECT label FROM classifications ORDER BY label LIMIT 1) UNION ALL"
    " SELECT (SELECT c.label FROM classifications AS c WHERE c.label > known.label ORDER BY c.label LIMIT 1)"
    " FROM known WHERE known.label IS NOT NULL) SELECT label FROM known WHERE label IS NOT NULL"
)
_LANGUAGES = (
    "WITH RECURSIVE known (language) AS ("
    "(SELECT language FROM audio_files WHERE language IS NOT NULL ORDER BY language LIMIT 1) UNION ALL"
    " SELECT (SELECT f.language FROM audio_files AS f WHERE f.language > known.language"
    " ORDER BY f.language LIMIT 1)"
    " FROM known WHERE known.language IS NOT NULL)"
    " SELECT language FROM known WHERE language IS NOT NULL UNION"
    " SELECT unnest(languages) FROM audio_files WHERE cardinality(languages) > 1 ORDER BY 1"
)
_LABEL_COUNTS = (
    "SELECT label, classifier, count(DISTINCT audio_id) FROM classifications GROUP BY label, classifier"
    " ORDER BY 3 DESC, label, classifier"
)
_LANGUAGE_COUNTS = (
    "SELECT spoken, '', count(*) FROM audio_files AS f"
    " CROSS JOIN unnest(coalesce(f.languages, array_remove(ARRAY[f.language], NULL))) AS spoken"
    " GROUP BY spoken ORDER BY 3 DESC, spoken"
)


@dataclass(frozen=True)
class Named:
    """A label or a language, in how many files it is, and of which classifier a label is."""

    name: str
    of: str
    files: int


def label_names(database: Database, after: tuple[str, str] = ("", ""), limit: int = 100) -> list[tuple[str, str]]:
    """The labels that recordings have, each with its classifier before it, in their order; those after one."""
    first, second = after
    with database.transaction() as cursor:
        cursor.execute(QUERIES["label_names"], {"classifier": first, "label": second, "limit": limit})
        return list(cursor.fetchall())


def language_names(database: Database) -> list[str]:
    """The codes of the languages that recordings are in, by the alphabet."""
    return _names(database, _LANGUAGES)


def label_counts(database: Database) -> list[Named]:
    """All labels, the most frequent first."""
    return _counts(database, _LABEL_COUNTS)


def language_counts(database: Database) -> list[Named]:
    """All languages, the most frequent first; a file in which several are spoken counts for each."""
    return _counts(database, _LANGUAGE_COUNTS)


def _counts(database: Database, query: str) -> list[Named]:
    with database.long_transaction() as cursor:  # it reads a whole table
        cursor.execute(query)
        return [Named(*row) for row in cursor.fetchall()]


def unknown_word(database: Database, query: Query) -> str:
    """What is wrong with a query whose label or language no recording has, with those that there are; "" where
    some have it."""
    for asked, none, known in (
        (query.tag, "no recording has the label", _LABELS),
        (query.language, "no recording is in the language", _LANGUAGES),
    ):
        if asked and asked not in (names := _names(database, known)):
            return f"{none} {asked}{did_you_mean(asked, names) or _listed(names)}"
    return ""


def _names(database: Database, query: str) -> list[str]:
    with database.transaction() as cursor:
        cursor.execute(query)
        return [name for (name,) in cursor.fetchall()]


def _listed(names: list[str]) -> str:
    if len(names) < 2:
        return f": the only known one is {names[0]}" if names else ": none exists yet"
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f": the known ones are {', '.join(names[:MOST_NAMED])}{more}"
