"""Trainings on images of other channels and shapes, from the first epoch to the pictures, and on images that change."""
from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from command_line import run
from PIL import Image

from bdsa.commands.entry_points import benchmark, evaluate, export, train, visualize
from bdsa.commands.shown_images import from_split
from bdsa.config.settings import TeacherConfig
from bdsa.data.datasets import DataSpec, create_splits
from bdsa.data.transforms import pixels
from bdsa.models.checkpoints import open_network
from bdsa.models.factory import create_model
from bdsa.runs.target_runs import measured_data
from bdsa.training.fit import Fit
from bdsa.training.teachers import create_teacher

FAST = ["data=folder", "recipe.batch_size=4", "recipe.epochs=1", "recipe.warmup_epochs=0", "trainer.pictures=2",
        "trainer.eval_batch_size=5", "budgets.targets=[0.5,1.0]", "budgets.calibration_images=8", "data.workers=0",
        "data.augmentation=crop_flip", "trainer.device=cpu", "tracker=none"]


@pytest.fixture
def pictures(tmp_path):
    """A folder of 16-bit grey images and of coloured ones with opacity, 40 pixels high and 56 wide."""
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 4)):
        for name in ("a", "b"):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for k in range(count):
                shape, kind = ((40, 56), np.uint16) if k % 2 else ((40, 56, 4), np.uint8)
                Image.fromarray(random.integers(0, np.iinfo(kind).max, shape, kind)).save(folder / f"{k}.png")
    return tmp_path / "pictures"


def ran(command, arguments):
    outcome = run(command, arguments)
    assert outcome.code == 0, outcome.err
    return outcome


@pytest.mark.slow
@pytest.mark.parametrize("model, channels, size", [
    ("cifar_resnet8", 1, "32"), ("cifar_resnet8", 4, "[32,48]"), ("convnext_atto", 1, "[64,32]"),
    ("resnet10t", 4, "[32,64]")])
def test_any_channels_and_shape_train_evaluate_and_are_shown(tmp_path, pictures, model, channels, size):
    home = tmp_path / "run"
    ran(train, [*FAST, f"data.root={pictures}", f"model={model}", f"+model.args.in_chans={channels}",
                f"data.image_size={size}", f"out={tmp_path}", "name=run"])
    best = home / "checkpoints" / "best.pt"
    results = json.loads((home / "results.json").read_text())
    sides = json.loads(size)
    assert results["image_size"] == sides
    height, width = (sides, sides) if isinstance(sides, int) else sides
    network = open_network(best).network.eval()
    assert results["dense_macs"] == network.dense_macs((height, width))

    x = torch.randn(3, channels, height, width)
    with torch.inference_mode():
        masked = network(x, budget=0.5)
        network.execution = "sparse"
        torch.testing.assert_close(network(x, budget=0.5), masked, atol=1e-4, rtol=1e-4)

    ran(evaluate, [f"checkpoint={best}", "execution=sparse", f"out={tmp_path}/evaluated", "trainer.device=cpu"])
    again = json.loads((tmp_path / "evaluated" / "results.json").read_text())
    assert [row["top1"] for row in again["rows"]] == [row["top1"] for row in results["rows"]]
    ran(visualize, [f"checkpoint={best}", "count=2", "pictures=[overview,masks]", f"out={tmp_path}/shown",
                    "trainer.device=cpu"])
    ran(visualize, [f"checkpoint={best}", f"images={pictures}/val/a", "pictures=[ponder]", f"out={tmp_path}/files",
                    "trainer.device=cpu"])
    assert (tmp_path / "shown" / "overview.png").stat().st_size and (tmp_path / "files" / "0").is_dir()
    ran(benchmark, ["what=latency", f"latency.checkpoint={best}", "latency.peers=[eager]", "latency.rounds=1",
                    "latency.seconds=0.001", "latency.batch_sizes=[1]", f"out={tmp_path}/timed"])
    ran(benchmark, ["what=latency", f"model={model}", f"+model.args.in_chans={channels}", "latency.peers=[eager]",
                    f"latency.image_size={size}", "latency.rounds=1", "latency.seconds=0.001",
                    "latency.batch_sizes=[1]", f"out={tmp_path}/noise"])
    for name in ("timed", "noise"):
        found = next((tmp_path / name).rglob("benchmark.json"))
        assert json.loads(found.read_text())["image_size"] == sides
    ran(export, [f"checkpoint={best}", f"out={tmp_path}/n.safetensors"])
    assert open_network(tmp_path / "n.safetensors").network(x[:1], budget=0.5).shape == (1, 2)


@pytest.mark.slow
def test_the_data_take_the_networks_channels_or_give_it_theirs(tmp_path, pictures):
    common = [*FAST, f"data.root={pictures}", "model=cifar_resnet8", "data.image_size=32", f"out={tmp_path}"]
    ran(train, [*common, "data.channels=1", "name=a"])
    best = tmp_path / "a" / "checkpoints" / "best.pt"
    assert open_network(best).network.conv1.in_channels == 1
    for arguments, said in (
            (["data.channels=1", "+model.args.in_chans=3"], "data.channels=1, but model.args.in_chans reads 3"),
            (["+model.args.in_chans=2"], "reads images of 2 channels, and images have 1"),
            (["data.channels=2"], "data.channels=2 is not read")):
        outcome = run(train, [*common, *arguments, "name=b"])
        assert outcome.code == 1 and said in outcome.err and outcome.err.count("\n") == 1
    outcome = run(evaluate, [f"checkpoint={best}", "data.channels=3"])
    assert outcome.code == 1 and "data.channels=3, but cifar_resnet8 reads 1" in outcome.err


def test_images_are_shown_in_colour_whatever_their_channels(pictures):
    for channels in (1, 3, 4):
        splits = create_splits(DataSpec("folder", str(pictures), image_size=32, channels=channels))
        shown = from_split(splits, "val", 3)
        assert shown.images.shape == (3, channels, 32, 32) and shown.pixels.shape == (3, 3, 32, 32)
    clear = torch.tensor([0.2, 0.4, 0.6, 0.0])[None, :, None, None]
    assert torch.equal(pixels(clear, [0.0] * 4, [1.0] * 4), torch.ones(1, 3, 1, 1))


@pytest.mark.parametrize("augmentation", ["none", "crop_flip", "resized_crop_flip"])
@pytest.mark.parametrize("resize", [None, 30])
def test_a_rectangle_shows_the_middle_of_the_image_in_its_proportions(tmp_path, augmentation, resize):
    picture = Image.new("RGB", (90, 60), (0, 0, 0))
    picture.paste((255, 255, 255), (30, 0, 60, 60))  # a white column in the middle third
    for split in ("train", "val"):
        for name in ("a", "b"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            picture.save(folder / "0.png")
    splits = create_splits(DataSpec("folder", str(tmp_path), image_size=[24, 48], augmentation=augmentation,
                                    resize=resize, mean=[0, 0, 0], std=[1, 1, 1]))
    assert splits.train[0][0].shape == splits.val[0][0].shape == (3, 24, 48)
    row = splits.val[0][0][0, 12]
    shorter = resize or (27 if augmentation == "resized_crop_flip" else 24)
    assert torch.equal(row, row.flip(0)) and abs(int((row > 0.5).sum()) - 48 * shorter / 24 / 3) <= 2


@pytest.mark.parametrize("size, said", [
    ("[32]", "neither pixels nor"), ("[32,32,32]", "neither pixels nor"), ("[32,a]", "neither pixels nor"),
    ("[0,32]", "must be above zero"), ("1.5", "neither pixels nor"), ("nan", "neither pixels nor"),
    ("[4,64]", "image size 4 x 64 is below 8 pixels"), ("[40,48]", "cluttered_digits, which draws squares"),
    ("99999999", "not above 65,536")])
def test_a_wrong_size_is_one_line(tmp_path, size, said):
    outcome = run(train, [f"data.image_size={size}", "tracker=none", f"out={tmp_path}", "trainer.device=cpu"])
    assert outcome.code == 1 and said in outcome.err and outcome.err.count("\n") == 1


def test_a_rectangle_too_small_for_the_network_is_said(tmp_path, pictures):
    outcome = run(train, [*FAST, f"data.root={pictures}", "model=resnet10t", "data.image_size=[64,16]",
                          f"out={tmp_path}"])
    assert outcome.code == 1 and "image size 64 x 16 is too small for resnet10t" in outcome.err


def test_sizes_are_told_apart_in_words():
    rows = [{"images": 4}]
    results = {"data": "folder", "classes": 2, "rows": rows, "image_size": [24, 48]}
    assert "at 24 x 48 pixels" in measured_data({"data.root": "/d"}, results)
    assert "at 24 pixels" in measured_data({"data.root": "/d"}, {**results, "image_size": 24})


def test_a_teacher_reads_the_students_channels(pictures):
    splits = create_splits(DataSpec("folder", str(pictures), image_size=32, channels=1))
    weights = pictures / "teacher.pth"
    torch.save(create_model("cifar_resnet8", [1.0], 2, in_chans=1).state_dict(), weights)
    teacher = create_teacher(TeacherConfig("checkpoint", weights=str(weights)), splits, "cifar_resnet8",
                             torch.device("cpu"))
    assert teacher(None, torch.randn(2, 1, 32, 32)).shape == (2, 2)


@pytest.mark.parametrize("arguments", [
    ["model=cifar_resnet8"], ["model=resnet10t", "data.image_size=32"],
    ["model=convnext_atto", "model.mask_norm=batch"]])
def test_one_image_a_batch_is_refused_before_the_start_where_a_batch_norm_would_see_it_alone(tmp_path, arguments):
    outcome = run(train, ["recipe.batch_size=1", *arguments, "tracker=none", f"out={tmp_path}", "trainer.device=cpu"])
    assert outcome.code == 1 and outcome.err.count("\n") == 1 and not list(tmp_path.iterdir())
    assert "recipe.batch_size=1 leaves one image to the batch norms" in outcome.err and "batch_size=2" in outcome.err


@pytest.mark.slow
def test_layer_norms_train_on_one_image_and_statistics_are_never_those_of_one(tmp_path, pictures):
    common = [*FAST, f"data.root={pictures}", "data.image_size=32", "budgets.targets=[0.5]", f"out={tmp_path}",
              "trainer.limit_train_batches=2", "trainer.pictures=0"]
    ran(train, [*common, "model=convnext_atto", "recipe.batch_size=1", "name=a"])
    ran(train, [*common, "model=resnet10t", "trainer.eval_batch_size=1", "budgets.calibration_images=1", "name=b"])


@pytest.mark.slow
def test_a_resumed_run_notices_that_images_have_gone_or_come(tmp_path, pictures, monkeypatch):
    real = Fit.say

    def stop(self, *arguments):
        real(self, *arguments)
        if self.done == 1:
            raise KeyboardInterrupt

    command = [*FAST, f"data.root={pictures}", "model=cifar_resnet8", "data.image_size=32", f"out={tmp_path}", "name=a",
               "recipe.epochs=2", "trainer.pictures=0"]
    monkeypatch.setattr(Fit, "say", stop)
    assert run(train, command).code == 130
    monkeypatch.setattr(Fit, "say", real)
    last = (tmp_path / "a" / "checkpoints" / "last.pt").read_bytes()

    image = pictures / "train" / "b" / "3.png"
    kept = image.read_bytes()
    image.unlink()
    outcome = run(train, command)
    assert outcome.code == 1 and outcome.err.count("\n") == 1
    assert "images of train are not those that" in outcome.err and "class 'b' had 6 images and has 5" in outcome.err
    assert "Put them back, or train anew with trainer.fresh=true" in outcome.err
    image.write_bytes(kept)
    added = pictures / "val" / "a" / "9.png"
    added.write_bytes(kept)
    assert "images of val are not those" in (err := run(train, command).err) and "'a' had 4 images and has 5" in err
    assert (tmp_path / "a" / "checkpoints" / "last.pt").read_bytes() == last
    added.unlink()
    assert "resuming after epoch 1" in ran(train, command).out
