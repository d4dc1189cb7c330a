"""Readers of folders of images, on small files made here in the published layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.learn.images import read_images

ROWS = 4


def cifar(folder: Path) -> np.ndarray:
    """CIFAR-10's binary version: 6 files of rows of a label and three planes of 32 x 32."""
    rows = np.random.default_rng(0).integers(0, 256, (6 * ROWS, 3073), dtype=np.uint8)
    rows[:, 0] = np.arange(6 * ROWS) % 10
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    for at, name in enumerate(names):
        rows[at * ROWS : (at + 1) * ROWS].tofile(folder / name)
    return rows


def test_cifar_10(tmp_path: Path) -> None:
    rows = cifar(tmp_path)
    found = read_images(str(tmp_path))
    assert found.x.shape == (5 * ROWS, 3, 32, 32) and found.x_test.shape == (ROWS, 3, 32, 32)
    assert [*found.y, *found.y_test] == [*rows[:, 0]] and found.classes == 10
    assert found.x.mean() == pytest.approx(0, abs=1e-5) and found.x.std() == pytest.approx(1)
    # A pixel is where the format has it: plane, then row, then column.
    trained = rows[: 5 * ROWS, 1:] / 255
    value = (rows[7, 1 + 2 * 1024 + 5 * 32 + 9] / 255 - trained.mean()) / trained.std()
    assert found.x[7, 2, 5, 9] == pytest.approx(value, abs=1e-5)
    assert len(read_images(str(tmp_path), most=3).x) == 3
    assert read_images(str(tmp_path), 64).x.shape[2:] == (64, 64)


def test_cifar_10_that_is_not_whole(tmp_path: Path) -> None:
    rows = cifar(tmp_path)
    (tmp_path / "data_batch_1.bin").write_bytes(rows[:ROWS].tobytes()[:-1])
    with pytest.raises(ValueError, match=r"data_batch_1\.bin: 12291 bytes are no rows of 3073"):
        read_images(str(tmp_path))
    cifar(tmp_path)
    (tmp_path / "test_batch.bin").unlink()
    with pytest.raises(ValueError, match=r"test_batch\.bin: is not there"):
        read_images(str(tmp_path))
    rows[0, 0] = 10
    rows[:ROWS].tofile(tmp_path / "test_batch.bin")
    with pytest.raises(ValueError, match="a label of 10"):
        read_images(str(tmp_path))


def tiny(folder: Path, each: int = 5) -> None:
    """Tiny ImageNet: train/CLASS/images, and val/images with a table of their classes."""
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    for label, name in enumerate(("n01443537", "n01629819")):
        for i in range(each):
            at = folder / "train" / name / "images" / f"{name}_{i}.JPEG"
            at.parent.mkdir(parents=True, exist_ok=True)
            image.new("RGB", (64, 64), (200 * label, 10 * i, 0)).save(at, quality=95)
    (folder / "val" / "images").mkdir(parents=True)
    image.new("L", (64, 64), 128).save(folder / "val" / "images" / "val_0.JPEG")  # some are grey
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01629819\t0\t0\t62\t62\n")


def test_tiny_imagenet(tmp_path: Path) -> None:
    tiny(tmp_path)
    found = read_images(str(tmp_path), 64)
    assert found.x.shape == (10, 3, 64, 64) and found.classes == 2
    assert [*found.y] == [0] * 5 + [1] * 5 and [*found.y_test] == [1]
    red = found.x[:, 0].mean(axis=(1, 2))
    assert red[:5].max() < red[5:].min()
    assert np.ptp(found.x_test, axis=1).max() == 0
    assert read_images(str(tmp_path)).x.shape[2:] == (32, 32)


def test_a_folder_of_classes_alone_gives_every_fifth_to_be_tested(tmp_path: Path) -> None:
    tiny(tmp_path)
    (tmp_path / "val").rename(tmp_path / "elsewhere")
    found = read_images(str(tmp_path))
    assert len(found.x) == 8 and [*found.y_test] == [0, 1]


def test_a_folder_that_is_none_of_images(tmp_path: Path) -> None:
    tiny(tmp_path)
    (tmp_path / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01629818\n")
    with pytest.raises(ValueError, match=r"txt:1: no class 'n01629818', did you mean 'n01629819'"):
        read_images(str(tmp_path))
    (tmp_path / "val" / "val_annotations.txt").write_text("val_1.JPEG\tn01629819\n")
    with pytest.raises(ValueError, match=r"val_1\.JPEG: no image that can be read"):
        read_images(str(tmp_path))
    (tmp_path / "train" / "n01443537").rename(tmp_path / "one")
    with pytest.raises(ValueError, match="no CIFAR-10"):
        read_images(str(tmp_path))
