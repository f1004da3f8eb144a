"""What an image file may be: any mode and orientation, and what is refused in one line that names it."""
from __future__ import annotations

import os
import socket
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import check_one_line

from bdsa.commands.shown_images import from_files
from bdsa.config.settings import DataConfig
from bdsa.data.datasets import DataSpec, create_splits
from bdsa.data.image_files import find_image_files
from bdsa.data.loaders import eval_loader
from bdsa.data.reading import read_image

RAMP = np.linspace(0, 65535, 64 * 64).reshape(64, 64)


def mean_grey(path) -> np.ndarray:
    return np.asarray(read_image(str(path))).mean(axis=2)


@pytest.mark.parametrize("ending, kind", [("png", np.uint16), ("tif", np.uint16), ("tif", ">u2"), ("tif", np.int32)])
def test_grey_of_16_bits_is_scaled_and_not_cut_off(tmp_path, ending, kind):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(RAMP.astype(kind)).save(path)
    grey = mean_grey(path)
    assert abs(grey - RAMP / 257).max() <= 1 and grey.min() == 0 and grey.max() == 255


@pytest.mark.parametrize("pixels, message", [
    (RAMP.astype(np.float32), "floating-point numbers .mode F., whose white is not known"),
    ((RAMP * 10).astype(np.int32), "integers beyond 16 bits"),
])
def test_pixels_whose_white_is_not_known_are_refused_by_name(tmp_path, pixels, message):
    path = tmp_path / "a.tif"
    Image.fromarray(pixels).save(path)
    check_one_line(f"cannot read the image '.*a.tif': .*{message}", lambda: read_image(str(path)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_modes_are_read_in_their_colours(tmp_path, mode):
    picture = Image.new("RGB", (8, 8), (255, 255, 255))
    picture.paste((0, 0, 0), (0, 0, 4, 8))
    path = tmp_path / ("a.png" if mode in "1LP" else "a.jpg" if mode != "CMYK" else "a.tif")
    picture.convert(mode).save(path, **({"quality": 100} if path.suffix == ".jpg" else {}))
    read = read_image(str(path))
    assert read.mode == "RGB" and read.getpixel((1, 4)) == (0, 0, 0) and read.getpixel((6, 4)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_what_is_transparent_is_laid_over_white(tmp_path, mode):
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 4, 8))
    picture.convert(mode).save(tmp_path / "a.png")
    read = read_image(str(tmp_path / "a.png"))
    assert read.getpixel((1, 4)) == (0, 0, 0) and read.getpixel((6, 4)) == (255, 255, 255)
    opacity = read_image(str(tmp_path / "a.png"), "RGBA").getchannel("A")
    assert opacity.getpixel((1, 4)) == 255 and opacity.getpixel((6, 4)) == 0


def test_photos_are_turned_upright_in_training_evaluation_and_pictures_alike(folder):
    upright = Image.new("RGB", (40, 20), (0, 0, 0))
    upright.paste((255, 255, 255), (0, 0, 40, 10))  # the sky is white
    for orientation, turned in ((3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90),
                                (8, Image.Transpose.ROTATE_270)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = folder / "train" / "cat" / "0.jpg"
        upright.transpose(turned).save(path, exif=exif, quality=100)
        (folder / "train" / "cat" / "0.png").unlink(missing_ok=True)
        splits = create_splits(DataSpec("folder", str(folder), image_size=16, augmentation="none", mean=[0, 0, 0],
                                        std=[1, 1, 1]))
        shown = from_files([path], None, DataConfig(mean=[0, 0, 0], std=[1, 1, 1], augmentation="none"), 16,
                           splits.classes, 2)
        for image in (splits.train[0][0], splits.train_eval[0][0], shown.images[0]):
            assert image[:, :4].min() > 0.9 and image[:, -4:].max() < 0.1


def test_damaged_exif_is_no_reason_to_refuse_a_photo(tmp_path):
    Image.new("RGB", (20, 20), (9, 9, 9)).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\xff\xff\xff\xff")
    assert read_image(str(tmp_path / "a.jpg")).size == (20, 20)


def bomb() -> bytes:
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_too_large_to_be_true_is_named(folder, workers):
    (folder / "train" / "cat" / "0.png").write_bytes(bomb())  # its header is looked at first, for the size
    (folder / "val" / "cat" / "0.png").write_bytes(bomb())
    splits = create_splits(DataSpec("folder", str(folder), image_size=16, augmentation="auto"))
    check_one_line(r"cannot read the image '.*cat.0.png': it is too large to be true .*3600000000 pixels",
                   lambda: list(eval_loader(splits.val, 2, workers)))


def test_what_is_no_regular_file_is_named_before_anything_waits_for_it(folder, tmp_path):
    pipe = folder / "train" / "cat" / "pipe.png"
    os.mkfifo(pipe)
    check_one_line(r"'.*pipe.png' is a pipe, no regular file", lambda: create_splits(DataSpec("folder", str(folder))))
    check_one_line(r"cannot read the image '.*pipe.png': it is a pipe", lambda: read_image(str(pipe)))
    check_one_line(r"images=.*pipe.png is a pipe, no regular file", lambda: find_image_files([str(pipe)]))
    check_one_line(r"'.*pipe.png' is a pipe", lambda: find_image_files([str(folder)]))
    pipe.unlink()
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(folder / "val" / "dog" / "s.png"))
        check_one_line(r"s.png' is a socket", lambda: create_splits(DataSpec("folder", str(folder))))
    (folder / "val" / "dog" / "s.png").unlink()
    check_one_line("images=/dev/zero is a device", lambda: find_image_files(["/dev/zero"]))
    (folder / "val" / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    check_one_line(r"gone.png' is a link to nothing", lambda: create_splits(DataSpec("folder", str(folder))))


def test_a_name_with_a_line_break_stays_one_line(tmp_path):
    path = tmp_path / "a\nb.png"
    path.write_text("no image")
    check_one_line(r"cannot read the image '.*a\\nb.png': it is not an image", lambda: read_image(str(path)))


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB"), (4, "RGBA")])
@pytest.mark.parametrize("augmentation", ["none", "crop", "crop_flip", "resized_crop_flip"])
def test_images_have_the_channels_asked_for_in_any_augmentation(folder, channels, mode, augmentation):
    splits = create_splits(DataSpec("folder", str(folder), image_size=16, augmentation=augmentation, border="reflect",
                                    channels=channels, random_erasing=0.5,
                                    rand_augment=None if channels == 4 else "rand-m9-n15-p1"))
    assert splits.train.source[0][0].mode == mode and splits.channels == channels
    for dataset in (splits.train, splits.val):
        assert all(image.shape == (channels, 16, 16) and image.isfinite().all() for image, _ in dataset)


def test_channels_that_do_not_fit_are_explained(folder):
    def build(**options):
        return create_splits(DataSpec("folder", str(folder), **options))
    check_one_line("rand_augment=.* leave it out with data.channels=4",
                   lambda: build(channels=4, rand_augment="rand-m9"))
    check_one_line(r"mean .* is not 1 fraction of full brightness", lambda: build(channels=1, mean=[0.5, 0.5, 0.5]))
    grey = build(channels=1, mean=[0.0], std=[1.0], augmentation="none", image_size=16)
    assert grey.val[0][0].unique().numel() == 1 and torch.allclose(grey.val[0][0], torch.tensor(10 / 255))
