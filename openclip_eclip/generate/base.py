"""The interface of all writers: their input `Query` and their output `Generation`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from .clean import clean_text

# messages {"role": "user" or "assistant", "content": text}, the last from the user
Chat = list[dict[str, str]]


class Query(NamedTuple):
    """One report to write.

    `key` names the sample. `nearest` are its retrieved reports, nearest first; only `copy` reads
    them.
    """

    key: str
    chat: Chat
    nearest: Sequence[str]


@dataclass(frozen=True)
class Generation:
    """One written report: `raw` is the answer of the writer, `text` the cleaned report.

    `finish` is "stop", "length" (cut at the token limit), or another word of the server, such as
    "content_filter".
    """

    raw: str
    finish: str
    text: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", clean_text(self.raw))

    @property
    def empty(self) -> bool:
        return not self.text


class Writer(Protocol):
    """A deterministic writer of reports.

    The same query gets the same report, independent of earlier queries and of the batch.

    `facts` go into the result: back end, model, hashes, versions, sampling. They do not change
    during a run, except `served` of http: the names of the models that answered. `batch_size` is
    the recommended number of queries for one call of `write`.
    """

    facts: dict[str, Any]
    batch_size: int

    def write(self, queries: Sequence[Query]) -> list[Generation]:
        """One generation for each query, in order.

        Raises:
            UserError: a query cannot be answered; the message names it.
        """


def count_faults(generations: Sequence[Generation]) -> dict[str, int]:
    """Counts all generations, and the empty, truncated and otherwise stopped ones."""
    ends = [generation.finish for generation in generations]
    return {
        "count": len(generations),
        "empty": sum(generation.empty for generation in generations),
        "runaway": sum(end == "length" for end in ends),
        "stopped_otherwise": sum(end not in ("stop", "length") for end in ends),
    }
