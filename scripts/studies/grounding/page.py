"""The page of the study."""

from pathlib import Path


def write_page(records: list[dict], out: Path) -> None:
    for r in records:
        for part in ("values", "values_of_all"):
            print(r["set"], r["method"], r["fold"], r["seconds"], part)
            for k, e in r[part]["methods"].items():
                print(
                    "   ",
                    k,
                    {
                        m: round(v["value"], 3)
                        for m, v in e.items()
                        if isinstance(v, dict)
                        and m in ("pointing game, 15 px", "NSS", "AUC-Judd", "AUPRO")
                    },
                )
