"""Tiny models and data for the tests.

Training runs in subprocesses with a time limit. One process does several runs, because imports take
most of the time.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sysconfig
import tarfile
import tempfile
import venv
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

# before anything imports huggingface_hub: its retries take minutes without a network
os.environ["HF_HUB_OFFLINE"] = "1"

import forked_python
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
FINDINGS = ("nodule", "effusion", "cardiomegaly", "normal", "opacity", "fracture", "edema", "mass")
BASIC = (
    *("--model", "tiny", "--precision", "fp32", "--device", "cpu", "--workers", 0, "--seed", 1),
    *("--lr", 1e-3, "--warmup", 2, "--save-frequency", 1),
    *("--logs", "logs", "--log-every-n-steps", 1),
)
LAUNCH = """\
import functools, json, logging, runpy, sys, open_clip, torch, torch.distributed as dist
open_clip.add_model_config({config!r})
init = dist.init_process_group
dist.init_process_group = (
    lambda *args, **kwargs: None if dist.is_initialized() else init(*args, **kwargs)
)
# traces as always, without minutes of C++
torch.compile = functools.partial(torch.compile, backend='aot_eager')
module, runs = sys.argv[1], json.loads(sys.argv[2])
for flags in runs:
    sys.argv = [module, *flags]
    try:
        runpy.run_module(module, run_name='__main__', alter_sys=True)
    except SystemExit as stop:
        if stop.code:
            raise
    for handler in logging.root.handlers[:]:
        logging.root.removeHandler(handler)
{check}
"""


@cache
def fast_python() -> str:
    """A Python for commands of tests, in place of sys.executable.

    It forks one process that has already loaded torch.
    """
    return forked_python.start(Path(tempfile.mkdtemp(prefix="python-")))


def make_python(folder: Path) -> Path:
    """A virtual environment that finds this one's dependencies, and not its openclip_eclip."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    # a folder named in a .pth file is searched; the .pth files within it, which make an editable
    # install, are not read
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def ranks(processes: int) -> list[str]:
    """The first words of a command, for one process or, under torchrun, for several."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [fast_python(), *(several if processes > 1 else [])]


def environment() -> dict[str, str]:
    """The environment of commands: no network, no GPU, one thread, this folder in PYTHONPATH.

    The root comes first: tests/training_patches must not be taken for the package of that name.
    """
    paths = [str(ROOT), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **forked_python.SETTINGS, "PYTHONPATH": os.pathsep.join(paths)}


def write_table(
    folder: Path,
    count: int,
    annotated: Sequence[int] = (),
    size: int = 40,
    column: bool = True,
    name: str = "train.csv",
    seed: int = 0,
) -> Path:
    """Writes a CSV of `count` noise images; those in `annotated` (from 0) have a heatmap.

    Paths of images are absolute, paths of heatmaps relative.
    """
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = ["filepath,title,heatmap" if column else "filepath,title"]
    for i in range(count):
        pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        heatmap = ""
        if i in annotated:
            heatmap = f"images/{i}.npy"
            values = np.full((size, size), 0.1, np.float32)
            start = max(1, i % size // 2)  # a map that is the same everywhere is a fault
            values[start:, start:] = 1 + rng.random()
            np.save(folder / heatmap, values)
        lines.append(
            f"{folder / 'images' / f'{i}.png'},{FINDINGS[i % 8]} number {i}"
            + (f",{heatmap}" if column else "")
        )
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def encode_array(values: np.ndarray, suffix: str, **options) -> bytes:
    """A PNG, .npy or .npz file, by `suffix`."""
    stream = io.BytesIO()
    if suffix == ".png":
        Image.fromarray(values).save(stream, "PNG")
    elif suffix == ".npy":
        np.save(stream, values, **options)
    else:
        np.savez(stream, heatmap=values)
    return stream.getvalue()


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    """Writes a webdataset shard of {name: content}, in this order."""
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def read_shard(path: Path) -> dict[str, bytes]:
    """{member: content} of a shard, in order."""
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def read_split(out: Path, split: str = "train") -> dict[str, bytes]:
    """{member: content} of the first shard of a split that `prepare` wrote."""
    return read_shard(out / f"{split}-000000.tar")


def read_manifest(out: Path) -> dict[str, Any]:
    """What `prepare` wrote about its output."""
    return json.loads((out / "manifest.json").read_text())


class Launcher:
    """Runs modules in subprocesses in which open_clip knows the tiny model.

    `stock` runs open_clip's own training and checks that it never imports this package.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tiny.json").write_text(json.dumps(TINY))
        for name, check in (
            ("launch.py", ""),
            (
                "stock.py",
                "assert not [m for m in sys.modules if m.split('.')[0] == 'openclip_eclip']",
            ),
        ):
            (folder / name).write_text(LAUNCH.format(config=str(folder / "tiny.json"), check=check))

    def command(
        self, module: str, runs: Sequence[Sequence[object]], processes: int = 1
    ) -> list[str]:
        script = "stock.py" if module.startswith("open_clip_train") else "launch.py"
        launch = [
            str(self.folder / script),
            module,
            json.dumps([[str(flag) for flag in run] for run in runs]),
        ]
        return [*ranks(processes), *launch]

    def run(
        self,
        module: str,
        *runs: Sequence[object],
        processes: int = 1,
        timeout: float = 600,
        check: bool = True,
    ) -> subprocess.CompletedProcess:
        done = subprocess.run(
            self.command(module, runs, processes),
            env=environment(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            raise AssertionError(
                f"{module} exited with"
                f" {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
            )
        return done

    def worker(self, name: str, *words: str) -> Any:
        """What tests/workers/NAME.py writes as JSON on two ranks, with `tiny` as the model."""
        out = self.folder / "results.json"
        command = [
            *ranks(2),
            *map(str, (TESTS / "workers" / f"{name}.py", self.folder / "tiny.json", out)),
            *words,
        ]
        done = subprocess.run(
            command,
            env=environment(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(out.read_text())

    def train(self, *runs: Sequence[object], **options: object) -> subprocess.CompletedProcess:
        return self.run("openclip_eclip.train", *runs, **options)

    def stock(self, *runs: Sequence[object], **options: object) -> subprocess.CompletedProcess:
        return self.run("open_clip_train.main", *runs, **options)

    # ---- what a run left behind

    def checkpoint(self, name: str, epoch: int) -> dict:
        return torch.load(
            self.folder / "logs" / name / "checkpoints" / f"epoch_{epoch}.pt", weights_only=True
        )

    def weights(self, name: str, epoch: int) -> dict[str, torch.Tensor]:
        return {
            key.removeprefix("module."): value
            for key, value in self.checkpoint(name, epoch)["state_dict"].items()
        }

    def log(self, name: str) -> str:
        return (self.folder / "logs" / name / "out.log").read_text()

    def losses(self, name: str, term: str = "Loss") -> list[float]:
        """`term` of each logged step; release 4 of open_clip's loop also logs averages."""
        values = re.findall(rf"(?<!Avg) {term}: ([\d.e+-]+)", self.log(name))
        return [float(value) for value in values]


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher:
    return Launcher(tmp_path)


@pytest.fixture(scope="session", autouse=True)
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the tiny model, which open_clip knows in this process."""
    path = tmp_path_factory.mktemp("configs") / "tiny.json"
    path.write_text(json.dumps(TINY))
    open_clip.add_model_config(path)
    return "tiny"
