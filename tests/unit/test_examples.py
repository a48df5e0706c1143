"""The examples: shards without overlap, tasks that learn, job files that validate, MNIST files from strangers."""

from __future__ import annotations

import gzip
import importlib.util
import struct
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors.numpy import load_file

from deepledger.api.job_file import draft, read_job_file
from deepledger.protocol.errors import BadSpec
from deepledger.protocol.evaluation.task import Task, read_source
from deepledger.protocol.formats.metrics import Metric

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def prepare(example: str, into: Path, *arguments: object, succeeds: bool = True) -> str:
    command = [sys.executable, EXAMPLES / example / "prepare.py", "--into", into, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode == 0) is succeeds, result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout + result.stderr


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{path.parent.name}_{path.stem}".replace("-", "_"), path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """Tiny IDX files: each image is a bright row that says which digit it is."""
    folder = tmp_path / "idx"
    folder.mkdir()
    labels = np.arange(300, dtype=np.uint8) % 10
    images = np.zeros((300, 28, 28), np.uint8)
    images[np.arange(300), labels * 2 + 3] = 255
    (folder / IMAGES).write_bytes(idx(images))
    (folder / f"{LABELS}.gz").write_bytes(gzip.compress(idx(labels)))
    return folder


@pytest.mark.parametrize(
    ("example", "total", "metric", "least"),
    [
        ("digits", 1797, "accuracy", 0.85),
        ("breast-cancer", 569, "accuracy", 0.85),
        ("mnist", 300, "accuracy", 0.5),
        ("diabetes", 442, "r2", 0.3),
        ("diabetes", 442, "concordance", 0.7),
    ],
)
def test_an_example_prepares_trains_and_evaluates(
    example: str, total: int, metric: str, least: float, tmp_path: Path, mnist: Path
) -> None:
    data = tmp_path / "data"
    prepare(example, data, *([mnist] if example == "mnist" else []))
    names = ["validation", *(f"participant-{i}" for i in range(4))]
    assert sorted(path.stem for path in data.iterdir()) == sorted(names)
    lengths = [len(next(iter(load_file(data / f"{name}.safetensors").values()))) for name in names]
    assert sum(lengths) == total
    assert lengths[0] == total // 5

    job = tomllib.loads((EXAMPLES / example / "job.toml").read_text())
    task = Task(read_source(EXAMPLES / example / "task.py"))
    model = task.build_model(job["training"]["seed"])
    assert 1_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 20_000
    hyperparameters = job["training"]["hyperparameters"] | (
        {"epochs": 20, "batch_size": 8} if example == "mnist" else {}
    )
    validation = task.load_data(data / "validation.safetensors")
    before = task.evaluate(model, validation, seed=1)
    task.train(
        model, task.load_data(data / "participant-0.safetensors"), round=0, seed=1, hyperparameters=hyperparameters
    )
    after = task.evaluate(model, validation, seed=1)
    assert after.samples == total // 5
    assert after.exact(metric) > max(least, before.exact(metric))


@pytest.mark.parametrize(
    "example",
    ["digits", "mnist", *(pytest.param(name, marks=pytest.mark.slow) for name in ("breast-cancer", "diabetes"))],
)
def test_a_job_file_becomes_a_job(example: str, tmp_path: Path, mnist: Path) -> None:
    prepare(example, tmp_path / "data", *([mnist] if example == "mnist" else []))
    (tmp_path / "task.py").write_bytes((EXAMPLES / example / "task.py").read_bytes())
    made = draft(read_job_file(EXAMPLES / example / "job.toml"), tmp_path)
    assert made.spec.name == example
    assert made.terms.rounds == 10


def test_the_job_of_a_regression_pays_by_its_error(tmp_path: Path) -> None:
    prepare("diabetes", tmp_path / "data", "--alpha", 0.5)
    (tmp_path / "task.py").write_bytes((EXAMPLES / "diabetes/task.py").read_bytes())
    job = (EXAMPLES / "diabetes/job.toml").read_text()
    (tmp_path / "job.toml").write_text(job.replace("rmse = 1e-5 ", "rmse = 5e-5\nconcordance = 0.5"))
    spec = draft(read_job_file(tmp_path / "job.toml"), tmp_path).spec
    metrics = spec.validation.metrics
    assert list(metrics) == ["loss", "rmse", "r2", "concordance"], "and no accuracy"
    assert metrics["rmse"] == Metric(better="lower", scale=50, tolerance=5e-5)
    assert metrics["concordance"] == Metric(better="higher", tolerance=0.5, ties=1)
    assert spec.headline == "rmse"

    for change, refused in (
        (("rmse = 1e-5 ", "mse = 1e-5"), "tolerance.mse: the task measures loss, rmse, r2, concordance"),
        (("rmse = 1e-5 ", "rmse = 1e-3"), "the tolerance of rmse is 0.001"),
        (('metric = "rmse"', 'metric = "accuracy"'), "rewards.metric is 'accuracy', and the task measures loss, rmse"),
    ):
        (tmp_path / "job.toml").write_text(job.replace(*change))
        with pytest.raises(BadSpec, match=refused):
            draft(read_job_file(tmp_path / "job.toml"), tmp_path)


def test_participants_may_each_have_their_own_mix_of_what_is_measured() -> None:
    split = module(EXAMPLES / "shards.py").split
    targets = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    means = [
        np.ptp([targets[rows].mean() for rows in split(targets, participants=4, seed=1, alpha=alpha)[1]])
        for alpha in (0.1, None)
    ]
    assert means[0] > 3 * means[1]


def test_preparing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        prepare("digits", tmp_path / name, "--seed", 3, "--alpha", 0.5, "--participants", 3)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize("alpha", [None, 0.1, 10.0])
@pytest.mark.parametrize("participants", [1, 4, 7])
def test_every_row_is_in_exactly_one_shard(alpha: float | None, participants: int) -> None:
    split = module(EXAMPLES / "shards.py").split
    labels = np.random.default_rng(0).integers(0, 10, 503)
    validation, shards = split(labels, participants=participants, seed=1, alpha=alpha)
    assert len(shards) == participants
    assert sorted(np.concatenate([validation, *shards])) == list(range(503))


def test_a_small_alpha_gives_uneven_classes() -> None:
    split = module(EXAMPLES / "shards.py").split
    labels = np.repeat(np.arange(10), 100)

    def spread(alpha: float | None) -> float:
        _, shards = split(labels, participants=4, seed=1, alpha=alpha)
        return float(np.std([np.bincount(labels[shard], minlength=10) for shard in shards]))

    assert spread(0.1) > 3 * spread(None)


def test_nobody_gets_an_empty_shard(tmp_path: Path) -> None:
    write = module(EXAMPLES / "shards.py").write
    with pytest.raises(SystemExit, match="no samples"):
        write({"labels": np.zeros(4, np.uint8)}, tmp_path, labels="labels", participants=9)


@pytest.mark.parametrize(("example", "into"), [("digits", "/proc"), ("digits", "/proc/data"), ("lora", "/proc/data")])
def test_a_folder_that_cannot_be_written_to_is_named(example: str, into: str) -> None:
    said = prepare(example, Path(into), succeeds=False)
    assert said.startswith(f"cannot write to {into}: ")
    assert "choose another folder with --into" in said


def test_a_demo_that_cannot_be_written_is_refused() -> None:
    command = [sys.executable, EXAMPLES / "demo.py", "--folder", "/proc/demo"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, "Traceback" in result.stderr) == (1, False)
    assert result.stderr.startswith("cannot write to /proc/demo: ")


def test_missing_mnist_files_are_named(tmp_path: Path) -> None:
    said = prepare("mnist", tmp_path / "data", tmp_path, succeeds=False)
    assert IMAGES in said
    assert LABELS in said
    assert str(tmp_path) in said


HOSTILE = {
    "empty": b"",
    "short header": bytes([0, 0, 8, 3, 0, 0]),
    "other magic": b"\x89PNG" + bytes(12),
    "floats": bytes([0, 0, 13, 3]) + struct.pack(">3I", 1, 28, 28) + bytes(784),
    "other shape": bytes([0, 0, 8, 3]) + struct.pack(">3I", 1, 784, 1) + bytes(784),
    "no samples": bytes([0, 0, 8, 3]) + struct.pack(">3I", 0, 28, 28),
    "announces 3 TB": bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**32 - 1, 28, 28),
    "truncated": bytes([0, 0, 8, 3]) + struct.pack(">3I", 300, 28, 28) + bytes(784),
    "trailing bytes": bytes([0, 0, 8, 3]) + struct.pack(">3I", 1, 28, 28) + bytes(785),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("packed", [False, True])
def test_hostile_idx_files_are_refused(content: bytes, packed: bool, tmp_path: Path) -> None:
    read_idx = module(EXAMPLES / "mnist/prepare.py").read_idx
    path = tmp_path / (f"{IMAGES}.gz" if packed else IMAGES)
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(SystemExit, match=f"{IMAGES}.*get the file again"):
        read_idx(tmp_path, IMAGES, shape=(28, 28))


def test_a_broken_gzip_file_is_refused(tmp_path: Path) -> None:
    read_idx = module(EXAMPLES / "mnist/prepare.py").read_idx
    whole = gzip.compress(idx(np.zeros((50, 28, 28), np.uint8)))
    for content in (b"not gzip", whole[:-9], whole[:20] + b"\xff" * 8 + whole[28:]):
        (tmp_path / f"{IMAGES}.gz").write_bytes(content)
        with pytest.raises(SystemExit, match="get the file again"):
            read_idx(tmp_path, IMAGES, shape=(28, 28))


def test_images_and_labels_must_fit(mnist: Path, tmp_path: Path) -> None:
    (mnist / LABELS).write_bytes(idx(np.zeros(299, np.uint8)))
    assert "299 labels" in prepare("mnist", tmp_path / "data", mnist, succeeds=False)
    (mnist / LABELS).write_bytes(idx(np.full(300, 10, np.uint8)))
    assert "a label 10" in prepare("mnist", tmp_path / "data", mnist, succeeds=False)
