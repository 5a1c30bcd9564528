"""The installed open_clip has the names that the package uses; another one is one sentence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import open_clip
import pytest

import openclip_eclip
from openclip_eclip.open_clip_names import CALLED, REPLACED, check_open_clip, signature_difference


@pytest.fixture(autouse=True)
def stock() -> Iterator[None]:
    """open_clip as it is before `register` replaces names."""
    openclip_eclip.unregister()
    yield
    openclip_eclip.register()


def test_the_installed_version_has_all_names() -> None:
    check_open_clip()


@pytest.mark.parametrize("path", [*REPLACED, *CALLED])
def test_each_missing_name_is_named(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, _, name = path.rpartition(".")
    monkeypatch.delattr(sys.modules[owner], name)
    with pytest.raises(RuntimeError, match=f"has another {path} than expected: none; install"):
        check_open_clip()


def test_a_version_number_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip, "__version__", "99.0")
    check_open_clip()


def test_another_signature_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip, "__version__", "99.0")
    with monkeypatch.context() as patch:  # open_clip would give ours a parameter it does not take
        patch.setattr(open_clip.factory, "get_model_config", lambda model_name, revision=None: None)
        with pytest.raises(
            RuntimeError, match=r"99.0 has another .*config\(model_name, revision\)"
        ):
            check_open_clip()
    with monkeypatch.context() as patch:
        patch.setattr(open_clip.model.CLIP, "encode_text", lambda self, text: text)
        expected = r"CLIP.encode_text\(text\) than expected: \(text, normalize\); install"
        with pytest.raises(RuntimeError, match=expected):
            check_open_clip()
    # what is called may have parameters that are not given
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda model_name, more=1: None)
    check_open_clip()


def test_a_module_that_is_missing() -> None:
    assert signature_difference("open_clip.no_module.name", ()) is not None
    assert signature_difference("no_package.name", ()) is not None


@pytest.mark.slow
def test_the_import_of_the_package_says_it() -> None:
    program = "import open_clip.loss as loss\ndel loss.gather_features\nimport openclip_eclip"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: open_clip "), done.stderr
    assert "has another open_clip.loss.gather_features than expected: none" in last
