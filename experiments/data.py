"""Images and labels: torchvision's data sets from files that are there already, their parts, and what is done to an
image before a network sees it. Nothing is downloaded."""

import dataclasses
import functools
import pathlib
import tempfile

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets
from torchvision.datasets.utils import extract_archive
from torchvision.transforms import v2

from . import seeds
from .config import Run

#: The last images of a training set are for choosing schedules, and no run trains on them.
VALIDATION = 10_000


@dataclasses.dataclass(frozen=True)
class Images:
    """uint8 images, N x channels x side x side, and labels."""

    x: Tensor
    y: Tensor

    def part(self, indexes) -> "Images":
        return Images(self.x[indexes], self.y[indexes])

    def to(self, device) -> "Images":
        return Images(self.x.to(device), self.y.to(device))

    def __len__(self):
        return len(self.y)


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run trains on and what it is measured on, with the training images' mean and deviation by channel."""

    train: Images
    test: Images
    classes: int
    mean: Tensor
    deviation: Tensor

    def scaled(self, x: Tensor) -> Tensor:
        """What the network sees."""
        return (x.float() / 255 - self.mean) / self.deviation

    def on(self, device, with_images: bool) -> "Parts":
        """With what scales images on the device, and the images too, unless they are augmented on the CPU."""
        mean, deviation = self.mean.to(device), self.deviation.to(device)
        train, test = (images.to(device) if with_images else images for images in (self.train, self.test))
        return Parts(train, test, self.classes, mean, deviation)


def _images(x, y) -> Images:
    x, y = torch.as_tensor(np.asarray(x)), torch.as_tensor(np.asarray(y)).long()
    if x.dim() == 3:
        x = x.unsqueeze(1)
    return Images(x.movedim(-1, 1).contiguous() if x.shape[-1] == 3 else x, y)


def _fashion_mnist(folder: str, train: bool) -> Images:
    """From torchvision's own layout, or the four files as they are published."""
    if not (pathlib.Path(folder) / "train-images-idx3-ubyte.gz").exists():
        whole = datasets.FashionMNIST(folder, train)
        return _images(whole.data, whole.targets)
    with tempfile.TemporaryDirectory() as root:
        raw = pathlib.Path(root) / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        for file in pathlib.Path(folder).glob("*-ubyte.gz"):
            extract_archive(str(file), str(raw))
        return _fashion_mnist(root, train)


def _emnist(folder: str, train: bool) -> Images:
    whole = datasets.EMNIST(folder, "balanced", train=train)
    return _images(whole.data, whole.targets)


def _cifar(of, folder: str, train: bool) -> Images:
    whole = of(folder, train)
    return _images(whole.data, whole.targets)


def _svhn(folder: str, train: bool) -> Images:
    """The training images are those called extra as well, as in the paper."""
    wholes = [datasets.SVHN(folder, split) for split in (("train", "extra") if train else ("test",))]
    return _images(np.concatenate([w.data for w in wholes]), np.concatenate([w.labels for w in wholes]))


def _synthetic(folder: str, train: bool) -> Images:
    """Small images of stripes whose direction is the label, for tests: nothing is read."""
    generator = seeds.generator("synthetic", train)
    y = torch.randint(4, (600 if train else 200,), generator=generator)
    i, j = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    directions = torch.stack([i, j, i + j, i - j])
    phase = torch.randint(4, (len(y), 1, 1), generator=generator)
    stripes = ((directions[y] + phase) // 2 % 2) * 160
    noise = torch.randint(96, stripes.shape, generator=generator)
    return _images((stripes + noise).to(torch.uint8), y)


DATA = {
    "fashion-mnist": (_fashion_mnist, "FashionMNIST/raw, or the four files as published (scripts/get-fashion-mnist)"),
    "cifar-10": (functools.partial(_cifar, datasets.CIFAR10), "cifar-10-batches-py"),
    "cifar-100": (functools.partial(_cifar, datasets.CIFAR100), "cifar-100-python"),
    "svhn": (_svhn, "train_32x32.mat, extra_32x32.mat and test_32x32.mat"),
    "emnist": (_emnist, "EMNIST/raw"),
    "synthetic": (_synthetic, "nothing"),
}


@functools.lru_cache(maxsize=4)
def _load(name: str, folder: str, train: bool) -> Images:
    if name not in DATA:
        raise ValueError(f"data must be one of {', '.join(DATA)}, got {name!r}")
    load, contents = DATA[name]
    try:
        return load(folder, train)
    except (OSError, RuntimeError) as why:
        raise FileNotFoundError(f"--data must be a folder with {contents} for {name}, got {folder} ({why})") from why


def parts(run: Run, folder: str) -> Parts:
    """What the run trains on and is measured on. Which images are drawn and which labels are wrong is its seed's."""
    whole = _load(run.data, folder, True)
    validation = min(VALIDATION, len(whole) // 6)
    drawable = len(whole) - validation
    if run.train_images is None:
        train = whole.part(slice(None if run.measured_on == "test" else drawable))
    elif run.train_images <= drawable:
        train = whole.part(torch.randperm(drawable, generator=seeds.generator(run.seed, "images"))[: run.train_images])
    else:
        raise ValueError(f"train_images must be at most {drawable} of {run.data}, got {run.train_images}")
    classes = int(whole.y.max()) + 1
    test = _load(run.data, folder, False) if run.measured_on == "test" else whole.part(slice(drawable, None))
    if run.data == "svhn":  # scaled to [0, 1], as in the paper
        mean, deviation = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    else:
        values = train.x.transpose(0, 1).flatten(1).double() / 255
        mean, deviation = (m.float().view(-1, 1, 1) for m in (values.mean(1), values.std(1)))
    train = Images(train.x, _with_wrong_labels(train.y, classes, run))
    return Parts(train, test, classes, mean, deviation)


def _with_wrong_labels(y: Tensor, classes: int, run: Run) -> Tensor:
    """A share of the labels, exactly, becomes another label, each as likely."""
    generator = seeds.generator(run.seed, "wrong labels")
    wrong = torch.randperm(len(y), generator=generator)[: round(run.wrong_labels * len(y))]
    y = y.clone()
    y[wrong] = (y[wrong] + torch.randint(1, classes, wrong.shape, generator=generator)) % classes
    return y


class Cutout(v2.Transform):
    """Sets a square around any pixel to the mean; what is beyond the image's border is lost (DeVries and Taylor,
    2017)."""

    def __init__(self, side: int, mean: Tensor):
        super().__init__()
        self.side, self.mean = side, (255 * mean).round().to("cpu", torch.uint8)

    def forward(self, image: Tensor) -> Tensor:
        image = image.clone()
        (top, bottom), (left, right) = (self._span(size) for size in image.shape[-2:])
        image[..., top:bottom, left:right] = self.mean
        return image

    def _span(self, size):
        start = int(torch.randint(size, ())) - self.side // 2
        return max(start, 0), max(start + self.side, 0)


def transform(names: tuple[str, ...], parts: Parts) -> v2.Compose | None:
    """The augmentations by name: crop, flip, cutout SIDE and autoaugment."""
    made = []
    for name in names:
        kind, _, number = name.partition(" ")
        if kind == "crop":
            made.append(v2.RandomCrop(parts.train.x.shape[-1], padding=4))
        elif kind == "flip":
            made.append(v2.RandomHorizontalFlip())
        elif kind == "cutout":
            made.append(Cutout(int(number), parts.mean))
        elif kind == "autoaugment":
            made.append(v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10))
        else:
            raise ValueError(f"augmentation must be crop, flip, cutout SIDE or autoaugment, got {name!r}")
    return v2.Compose(made) if made else None


class _Augmented(Dataset):
    """The batches of an epoch. Each has random numbers of its own, so that it is the same in any process."""

    def __init__(self, run: Run, images: Images, epoch: int, indexes: list[Tensor], transform: v2.Compose):
        self.run, self.images, self.epoch, self.indexes, self.transform = run, images, epoch, indexes, transform

    def __len__(self):
        return len(self.indexes)

    def __getitem__(self, step):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.seed(self.run.seed, "augmentation", self.epoch, step))
            batch = self.images.part(self.indexes[step])
            return torch.stack([self.transform(image) for image in batch.x]), batch.y


def batches(run: Run, parts: Parts, epoch: int, device: torch.device, workers: int = 0):
    """The training batches of an epoch, on the device."""
    order = torch.randperm(len(parts.train), generator=seeds.generator(run.seed, "order", epoch))
    augment = transform(run.augmentation, parts)
    if augment is None:  # the images may be on the device already
        yield from map(parts.train.part, order.to(parts.train.x.device).split(run.recipe.batch))
        return
    augmented = _Augmented(run, parts.train, epoch, list(order.split(run.recipe.batch)), augment)
    # Without a generator of its own it would draw from the masks'.
    options = {"generator": torch.Generator(), "pin_memory": device.type == "cuda"}
    for x, y in DataLoader(augmented, batch_size=None, num_workers=workers, **options):
        yield Images(x, y).to(device)
