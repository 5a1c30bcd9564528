"""scripts/house.py: each of its figures, on a small package."""

from __future__ import annotations

from pathlib import Path

import house
import pytest

BLOCK = "".join(f"    value = other.step_{i}(value)\n" for i in range(9))
FILES = {
    "openclip_eclip/__init__.py": "",
    "openclip_eclip/model.py": '''"""Model."""
from __future__ import annotations
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from .data import heatmap
# a comment
def short():
    return "# no comment"  # another
''',
    "openclip_eclip/data/__init__.py": "",
    "openclip_eclip/data/heatmap.py": f"""from ..model import short
def first(value, other):
{BLOCK}    return value
class Second:
    def first(self, value, other):
        if value:
{BLOCK.replace("    ", "            ")}        return short()
""",
    "scripts/run.py": "x = 1\n" + "y = '" + "-" * 100 + "'\n",
    "tests/data/test_heatmap.py": "",
    "tests/test_big_model_again.py": "def test_it():\n    pass\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> house.Checkout:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return house.Checkout(tmp_path)


def test_folders_are_counted(tree: house.Checkout) -> None:
    assert house.rooms(tree) == {
        "openclip_eclip": (2, 8),
        "openclip_eclip/data": (2, 25),
        "scripts": (1, 2),
        "tests": (1, 2),
        "tests/data": (1, 0),
    }


def test_lengths_widths_and_comments(tree: house.Checkout) -> None:
    assert house.function_lengths(tree) == (11, 12, 12)  # of 2, 11 and 12 lines
    assert house.wide_lines(tree, "scripts") == 0.5
    assert house.wide_lines(tree, *house.PACKAGES) == 0
    assert house.comment_lines(tree, *house.PACKAGES) == 2 / 33


def test_import_circle_through_type_checking_counts(tree: house.Checkout) -> None:
    assert house.imports(tree, "openclip_eclip.model") == {"openclip_eclip.data.heatmap"}
    assert house.circles(tree) == 1
    source = tree.root / "openclip_eclip" / "model.py"
    source.write_text(source.read_text().replace("from .data import heatmap", "pass"))
    assert house.circles(house.Checkout(tree.root)) == 0


def test_tests_are_found_by_path_and_by_name(tree: house.Checkout) -> None:
    assert house.tested_by_path(tree) == 1  # heatmap
    assert house.tested_by_name(tree) == 2  # heatmap, and model in test_big_model_again


def test_copies_are_counted_once_however_they_are_wrapped(tree: house.Checkout) -> None:
    assert house.copies(tree, *house.PACKAGES) == 1
    source = tree.root / "openclip_eclip" / "data" / "heatmap.py"
    text = source.read_text()
    source.write_text(text.replace("other.step_3(value)", "other.step_3(\n value\n)", 1))
    assert house.copies(house.Checkout(tree.root), *house.PACKAGES) == 1
    source.write_text(text.replace("other.step_3(value)", "other.step_3(values)", 1))
    assert house.copies(house.Checkout(tree.root), *house.PACKAGES) == 0


def test_neighbouring_equal_lines_are_no_copy_of_themselves(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "x.py").write_text("again()\n" * 12)
    assert house.copies(house.Checkout(tmp_path), "scripts") == 0
    (tmp_path / "scripts" / "x.py").write_text("again()\n" * 16)
    assert house.copies(house.Checkout(tmp_path), "scripts") == 1


def test_old_and_new_side_by_side(
    tree: house.Checkout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    (other / "training_patches").mkdir(parents=True)
    (other / "training_patches" / "session.py").write_text('"""Session."""\n')
    argv = [str(tree.root), str(other), "--names", "old,new", "--no-linters"]
    assert house.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "|  | old | new |"
    assert "| `openclip_eclip/data/`: files, lines | 2, 25 | – |" in lines
    assert "| `training_patches/`: files, lines | – | 1, 1 |" in lines
    assert "| findings of mypy, packages | not measured | not measured |" in lines
    with pytest.raises(SystemExit, match="2"):
        house.main([str(tree.root / "scripts")])
    assert "expected the root folder of a checkout" in capsys.readouterr().err
