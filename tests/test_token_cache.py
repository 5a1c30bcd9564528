"""--cache-tokens: results found by the content of their input, in files that runs share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from openclip_eclip import token_cache
from openclip_eclip.config import UserError
from openclip_eclip.token_cache import TokenCache, content_keys


class Twice:
    """Doubles its input, and counts rows."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return 2 * x.float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.uint8])
def test_keys_tell_contents_apart(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = (torch.rand(4, 3, 5) * 100).to(dtype)
    x[2] = x[0]
    x[3] = x[0]
    x[3, 2, 4] += 1
    keys = content_keys(x)
    assert keys[0] == keys[2] and len(set(keys)) == 3
    assert content_keys(x.flip(0)) == keys[::-1]
    swapped = x[:1].clone()
    swapped[0, 0, 0], swapped[0, 0, 1] = x[0, 0, 1], x[0, 0, 0]
    assert content_keys(swapped)[0] != keys[0]


def test_a_row_is_computed_once_and_found_by_later_runs(tmp_path: Path) -> None:
    x, twice = torch.rand(3, 2, 2), Twice()
    first = TokenCache(tmp_path / "image", torch.float16, None)
    batch = x[[0, 1, 0]]
    expected = (2 * batch).half().float()
    assert torch.equal(first.rows(batch, twice), expected) and twice.rows == 2
    assert torch.equal(first.rows(batch, twice), expected) and twice.rows == 2
    first.write()
    assert torch.equal(first.rows(batch, twice), expected) and twice.rows == 2

    later = TokenCache(tmp_path / "image", torch.float16, None)
    assert torch.equal(later.rows(batch, twice), expected) and twice.rows == 2
    later.rows(x, twice)
    later.write()
    assert twice.rows == 3
    first.write()  # nothing to write, but what the other process wrote is found
    first.rows(x, twice)
    assert twice.rows == 3


def test_files_are_written_when_they_are_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "CHUNK", 3 * 4 * 2)
    cache = TokenCache(tmp_path / "image", torch.float16, None)
    for i in range(7):
        cache.rows(torch.full((1, 4), float(i)), Twice())
    assert len(list((tmp_path / "image").glob("*.safetensors"))) == 2
    assert torch.equal(cache.rows(torch.full((1, 4), 2.0), Twice()), torch.full((1, 4), 4.0))


def test_other_weights_have_other_files(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    before = token_cache._digest(layer.state_dict(), "fp32")
    assert token_cache._digest(layer.state_dict(), "fp32") == before
    assert token_cache._digest(layer.state_dict(), "amp") != before
    with torch.no_grad():
        layer.bias[0] += 1
    assert token_cache._digest(layer.state_dict(), "fp32") != before


def test_results_that_do_not_fit_the_type_are_an_error(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path / "image", torch.float16, None)
    with pytest.raises(UserError, match="not finite in float16; take --cache-tokens-dtype fp32"):
        cache.rows(torch.full((1, 4), 1e6), Twice())


def test_a_full_disk_is_told_before_it_is_full(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path / "image", torch.float32, 10**15)
    with pytest.raises(UserError, match="GB are needed.*GB are free; name a folder on another"):
        cache.rows(torch.rand(1, 4), Twice())


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path / "image", torch.float32, None)
    cache.rows(torch.rand(2, 4), Twice())
    cache.write()
    (path,) = (tmp_path / "image").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=f"{path.name} cannot be read"):
        TokenCache(tmp_path / "image", torch.float32, None)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for folder in (file, file / "tokens"):
        message = f"--cache-tokens {folder / 'image'}: {file} is a file; give a folder, old or new"
        with pytest.raises(UserError, match=message):
            TokenCache(folder / "image", torch.float32, None)
