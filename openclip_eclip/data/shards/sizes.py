"""Compare sizes.json and __len__ beside shards, which open_clip would use, with the shards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def compare_sizes(shards: Sequence[Path], counts: Sequence[int]) -> list[str]:
    """Messages on a sizes.json or __len__ beside the first shard that contradicts the shards."""
    if not shards:
        return []
    folder = shards[0].parent
    sizes, length = folder / "sizes.json", folder / "__len__"
    try:
        if sizes.is_file():
            stated = json.loads(sizes.read_text(encoding="utf-8"))
            wrong = [
                f"{shard.name} {stated.get(shard.name, 'nothing')} (it holds {count})"
                for shard, count in zip(shards, counts)
                if stated.get(shard.name) != count
            ]
            rest = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            return [f"{sizes} is wrong and not used: {', '.join(wrong[:3])}{rest}"] if wrong else []
        if length.is_file() and length.read_text(encoding="utf-8").strip() != str(sum(counts)):
            return [
                f"{length} says {length.read_text(encoding='utf-8').strip()[:20]}, the shards "
                f"hold {sum(counts)} samples: it is not used"
            ]
    except (OSError, ValueError, AttributeError) as error:
        return [f"{folder}: sizes.json or __len__ cannot be read ({error}) and is not used"]
    return []
