"""What a run trains on and is measured on."""

import collections
import gzip
import pickle
import struct

import numpy as np
import pytest
import scipy.io
import torch
from torchvision import datasets
from conftest import tiny

from experiments import data
from experiments.config import Run
from experiments.data import batches, parts

CPU = torch.device("cpu")


def test_runs_of_a_seed_differ_in_nothing_but_the_activation():
    a, b = (parts(tiny(activation=a, wrong_labels=0.25), "") for a in ("relu", "drop-activation 0.5"))
    assert torch.equal(a.train.x, b.train.x) and torch.equal(a.train.y, b.train.y)
    for epoch in range(2):
        runs = [tiny(activation=a, augmentation=["crop", "flip"]) for a in ("relu", "rrelu")]
        (first, second) = ([batch.x for batch in batches(run, a, epoch, CPU)] for run in runs)
        assert all(map(torch.equal, first, second))
    other = parts(tiny(seed=1), "")
    assert not torch.equal(a.train.x, other.train.x)


def test_each_epoch_sees_every_image_once_in_an_order_of_its_own():
    run = tiny()
    whole = parts(run, "")
    seen = [torch.cat([batch.x for batch in batches(run, whole, epoch, CPU)]).flatten(1) for epoch in range(2)]
    assert not torch.equal(*seen)
    for images in seen:
        assert sorted(map(tuple, images.tolist())) == sorted(map(tuple, whole.train.x.flatten(1).tolist()))


def test_the_share_of_wrong_labels_is_exact_and_all_of_them_are_wrong():
    right, wrong = (parts(tiny(wrong_labels=share), "") for share in (0.0, 0.25))
    assert torch.equal(right.train.x, wrong.train.x)
    assert (right.train.y != wrong.train.y).sum() == 24
    assert wrong.train.y.max() < wrong.classes
    assert torch.equal(right.test.y, wrong.test.y)
    moved = collections.Counter(((wrong.train.y - right.train.y) % 4).tolist())
    assert set(moved) == {0, 1, 2, 3}, "to every other label"


def test_no_run_trains_on_validation_images():
    validation = set(map(tuple, parts(tiny(measured_on="validation"), "").test.x.flatten(1).tolist()))
    assert len(validation) == 100
    for run in (tiny(train_images=500), tiny(train_images=None, measured_on="validation")):
        assert not validation & set(map(tuple, parts(run, "").train.x.flatten(1).tolist()))
    with pytest.raises(ValueError, match="train_images must be at most 500 of synthetic, got 501"):
        parts(tiny(train_images=501), "")


def test_batches_are_the_same_in_any_number_of_processes():
    run = tiny(augmentation=["autoaugment", "crop", "flip", "cutout 4"])
    whole = parts(run, "")
    here, there = ([batch.x for batch in batches(run, whole, 1, CPU, workers)] for workers in (0, 2))
    assert len(here) == 3 and all(map(torch.equal, here, there))
    assert not any(torch.equal(a.x, b) for a, b in zip(batches(tiny(), whole, 1, CPU), here))
    state = torch.get_rng_state()
    list(batches(run, whole, 1, CPU))
    assert torch.equal(torch.get_rng_state(), state), "the masks' random numbers are not touched"


def test_cutout_sets_a_square_to_the_mean_and_loses_what_sticks_out():
    cutout, sizes = data.Cutout(4, torch.tensor([[[0.5]]])), set()
    torch.manual_seed(1)
    for _ in range(200):
        image = cutout(torch.zeros(1, 8, 8, dtype=torch.uint8))
        rows, columns = (image[0] == 128).any(1).sum().item(), (image[0] == 128).any(0).sum().item()
        assert (image == 128).sum() == rows * columns
        sizes.add(rows * columns)
    assert (min(sizes), max(sizes)) == (4, 16)


def idx(values):
    """A file of MNIST's format."""
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return header + values.tobytes()


def read(name, folder):
    run = Run.of(data=name, network={"kind": "simple"}, activation="relu", recipe={"epochs": 1, "rate": 1}, seed=0)
    return parts(run, str(folder))


def test_fashion_mnist_and_emnist_are_read_as_they_are_published(tmp_path):
    random = np.random.default_rng(1)
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    stored = {}
    for fashion, emnist, count in (("train", "train", 60), ("t10k", "test", 10)):
        stored[emnist] = x, y = (
            random.integers(0, 256, (count, 28, 28), np.uint8),
            random.integers(0, 10, count, np.uint8),
        )
        for kind, values in (("images-idx3", x), ("labels-idx1", y)):
            (tmp_path / f"{fashion}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(values)))
            (raw / f"emnist-balanced-{emnist}-{kind}-ubyte").write_bytes(idx(values))
    for name in ("fashion-mnist", "emnist"):
        found = read(name, tmp_path)
        for part, images in (("train", found.train), ("test", found.test)):
            assert np.array_equal(images.x.squeeze(1), stored[part][0]) and np.array_equal(images.y, stored[part][1])
        scaled = found.scaled(found.train.x)
        assert abs(scaled.mean()) < 1e-5 and abs(scaled.std() - 1) < 1e-5


def test_cifar_and_svhn_are_read_as_they_are_published(tmp_path, monkeypatch):
    """But for the files' checksums, which torchvision knows."""
    for of in (datasets.CIFAR10, datasets.SVHN):
        monkeypatch.setattr(of, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    random, (x, y) = np.random.default_rng(1), ({}, {})
    for name, batches_, labels, classes in (
        ("cifar-10", {"cifar-10-batches-py": [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]}, "labels", 10),
        ("cifar-100", {"cifar-100-python": ["train", "test"]}, "fine_labels", 100),
    ):
        ((folder, files),) = batches_.items()
        (tmp_path / folder).mkdir()
        for file in files:
            x[file], y[file] = (
                random.integers(0, 256, (30, 3 * 32 * 32), np.uint8),
                random.integers(0, classes, 30).tolist(),
            )
            (tmp_path / folder / file).write_bytes(pickle.dumps({"data": x[file], labels: y[file]}))
        meta = ("batches.meta", "label_names") if name == "cifar-10" else ("meta", "fine_label_names")
        (tmp_path / folder / meta[0]).write_bytes(pickle.dumps({meta[1]: [str(i) for i in range(classes)]}))
        found = read(name, tmp_path)
        for images, named in ((found.train, files[:-1]), (found.test, files[-1:])):
            assert np.array_equal(images.x.flatten(1), np.concatenate([x[file] for file in named]))
            assert images.x.shape[1:] == (3, 32, 32) and images.y.tolist() == sum((y[file] for file in named), [])
    for split in ("train", "extra", "test"):
        x[split], y[split] = random.integers(0, 256, (32, 32, 3, 12), np.uint8), random.integers(1, 11, 12)
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", {"X": x[split], "y": y[split].reshape(-1, 1)})
    found = read("svhn", tmp_path)
    assert np.array_equal(found.train.x[12], x["extra"][..., 0].transpose(2, 0, 1)) and len(found.train) == 24
    assert found.test.y.tolist() == (y["test"] % 10).tolist()
    assert torch.equal(found.scaled(found.test.x), found.test.x / 255), "as the paper scales it"


def test_images_with_their_channels_last_are_turned():
    x = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    images = data._images(x, [0, 1])
    assert images.x.shape == (2, 3, 4, 4) and images.x[1, 2, 3, 0] == x[1, 3, 0, 2]


def test_missing_data_are_named(tmp_path):
    for name in ("fashion-mnist", "cifar-10", "cifar-100", "svhn", "emnist"):
        with pytest.raises(FileNotFoundError, match=f"--data must be a folder with .* for {name}, got {tmp_path}"):
            parts(tiny(data=name), str(tmp_path))
    with pytest.raises(ValueError, match="data must be one of fashion-mnist.*, got 'imagenet'"):
        parts(tiny(data="imagenet"), "")
    with pytest.raises(ValueError, match="augmentation must be crop.*, got 'mixup'"):
        list(batches(tiny(augmentation=["mixup"]), parts(tiny(), ""), 0, CPU))
