"""What every writer takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from .clean import clean_text

# messages {"role": "user" or "assistant", "content": text}, the last from the user
Chat = list[dict[str, str]]


class Query(NamedTuple):
    """One report to write. `key` names the sample; `nearest` are its retrieved reports, the nearest
    first, which only `copy` reads.
    """

    key: str
    chat: Chat
    nearest: Sequence[str]


@dataclass(frozen=True)
class Generation:
    """`raw` is what the writer said, `text` what is left after cleaning.

    `finish`: "stop", "length" (a runaway: the limit of tokens cut it), or another word of the
    server, such as "content_filter".
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
    """Deterministic: the same query gets the same report, whatever was asked before and in whatever
    company.

    `facts` go into the result: back end, model, hashes, versions, sampling. They are fixed from the
    start, but for `served` of http, the names of models that answered. `batch_size` is how many
    queries a call of `write` should hold; more or fewer are fine.
    """

    facts: dict[str, Any]
    batch_size: int

    def write(self, queries: Sequence[Query]) -> list[Generation]:
        """One generation a query, in their order; UserError names the query that cannot be
        answered.
        """


def count_faults(generations: Sequence[Generation]) -> dict[str, int]:
    """How many are empty, were cut by the limit of tokens, or ended in another way than by
    themselves.
    """
    return {
        "count": len(generations),
        "empty": sum(one.empty for one in generations),
        "runaway": sum(one.finish == "length" for one in generations),
        "stopped_otherwise": sum(one.finish not in ("stop", "length") for one in generations),
    }
