"""What a user of bdsa-visualize relies on: pictures of the masks themselves, numbers that agree with evaluation."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run
from matplotlib import colormaps
from network_cases import perturb
from PIL import Image
from published_cases import read_case

from bdsa.commands.answers import ask
from bdsa.commands.entry_points import export as export_main
from bdsa.commands.entry_points import visualize as main
from bdsa.commands.visualize import block_labels
from bdsa.config.data import DataSpec
from bdsa.data.datasets import create_splits, get_split
from bdsa.data.image_files import find_image_files, folder_names
from bdsa.data.loaders import eval_loader
from bdsa.data.subset import limited
from bdsa.models.checkpoints import ModelSpec, load_network, network_content, read_checkpoint, save
from bdsa.report.pictures.blocks import BlockLabel, Seen, mask_sheet, ponder_sheet, soft_mask_sheet
from bdsa.report.pictures.ponder import ponder_map
from bdsa.training.evaluation import evaluate

pytestmark = pytest.mark.slow

DATA = {"name": "cluttered_digits", "image_size": 32, "train_images": 12, "val_images": 10, "test_images": 10}
RAN, SKIPPED = ((255 * np.array(colormaps["Blues"](value)[:3]) + 0.5).astype(np.uint8) for value in (1.0, 0.0))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Checkpoints with mixed masks and without any, image files, and files that are none."""
    folder = tmp_path_factory.mktemp("files")
    spec = ModelSpec("cifar_resnet8", 10, [0.3, 0.7])
    test = get_split(create_splits(DataSpec(**DATA)), "test")
    network = perturb(spec.build().eval(), torch.stack([image for image, _ in test]))
    save(folder / "run/checkpoints/best.pt", network_content(network, spec, config={"data": DATA}))
    away = {"data": {"name": "folder", "root": str(folder / "away"), "image_size": 32}}
    save(folder / "away.pt", network_content(network, spec, config=away))
    dense = ModelSpec("cifar_resnet8", 10, [1.0])
    save(folder / "dense.pt", network_content(dense.build(), dense, config={"data": DATA}))
    torch.save(dense.build().state_dict(), folder / "weights.pt")
    (folder / "empty").mkdir()
    (folder / "words.png").write_text("no image")
    for name, size, colour in (("3/a.png", (50, 40), (200, 90, 40)), ("b $c$.jpg", (24, 90), "green"),
                               (".trash/d.png", (9, 9), "blue")):
        (folder / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(folder / "photos" / name)
    return folder


def visualize(*arguments: str):
    outcome = run(main, list(arguments))
    assert outcome.code == 0, outcome.err
    return outcome


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def count(picture: np.ndarray, colour: np.ndarray) -> int:
    return int((picture == colour).all(axis=-1).sum())


@pytest.fixture(scope="module")
def made(files) -> Path:
    """The pictures of three test images at every budget, by the shortest command."""
    outcome = visualize(f"checkpoint={files / 'run/checkpoints/best.pt'}", "count=3")
    folder = files / "run/visualizations/best-cluttered_digits-test"
    assert f"{folder / 'overview'}.{{png,pdf}}" in outcome.out and "3 of 10 images" in outcome.out
    return folder


def test_every_image_and_budget_has_its_pictures(made):
    images = [image["name"] for image in json.loads((made / "densities.json").read_text())["images"]]
    assert len(images) == 3
    for image in images:
        for kind in ("ponder", "masks", "soft"):
            one, other = (pixels(made / image / f"{kind}_{budget}.png") for budget in ("b030", "b070"))
            assert min(one.shape[:2]) > 300 and one.std() > 20
            assert one.shape != other.shape or (one != other).any()
            pdf = (made / image / f"{kind}_b030.pdf").read_bytes()
            assert b"/FontFile2" in pdf and b"/Type3" not in pdf
    assert sorted(p.name for p in made.iterdir()) == sorted([
        *images, "animation.gif", "densities.json", "density.pdf", "density.png", "masks.json", "overview.pdf",
        "overview.png"])
    with Image.open(made / "animation.gif") as gif:
        assert gif.n_frames == 2


def test_the_numbers_are_those_of_the_evaluation(files, made):
    content = read_checkpoint(files / "run/checkpoints/best.pt")
    network = load_network(content, "best.pt")
    shown = limited(get_split(create_splits(DataSpec(**DATA)), "test"), 3)
    expected = evaluate(network, eval_loader(shown, 3, 0), [0.3, 0.7], torch.device("cpu"))
    record = json.loads((made / "densities.json").read_text())
    assert [block["name"] for block in record["blocks"]] == ["layer1.0", "layer2.0", "layer3.0"]
    assert [block["mask"] for block in record["blocks"]] == [[32, 32], [16, 16], [8, 8]]
    assert record["dense_macs"] == network.dense_macs((32, 32))
    for row, right in zip(record["budgets"], expected.rows, strict=True):
        assert row["densities"] == pytest.approx(expected.densities[row["name"]], abs=1e-9)
        assert min(row["densities"]) > 0 and max(row["densities"]) < 1
        assert (row["name"], row["budget"]) == (right["name"], right["budget"])
        assert row["conditional_fraction"] == pytest.approx(right["conditional_fraction"], abs=1e-9)
        assert row["macs"] == pytest.approx(right["macs"]) and 100 * row["right"] / 3 == pytest.approx(right["top1"])
        of_images = [image["budgets"][row["name"]] for image in record["images"]]
        assert np.mean([i["densities"] for i in of_images], axis=0) == pytest.approx(row["densities"])
    assert {image["true"] for image in record["images"]} == {str(shown[i][1]) for i in range(3)}


def case() -> tuple[Seen, list[BlockLabel]]:
    draw = torch.Generator().manual_seed(4)
    soft = [torch.rand(side, side, generator=draw) for side in (8, 8, 4)]
    seen = Seen(torch.rand(3, 32, 32, generator=draw), [s >= 0.5 for s in soft], soft, "a $title", "a caption")
    return seen, [BlockLabel(f"layer{stage}.{k}", f"layer{stage}") for stage, k in ((1, 0), (1, 1), (2, 0))]


def test_the_mask_sheet_shows_every_position_in_whole_pixels(tmp_path):
    seen, blocks = case()
    before = [mask.clone() for mask in seen.masks]
    mask_sheet(seen, blocks, tmp_path / "masks.png")
    picture = pixels(tmp_path / "masks.png")
    assert all(torch.equal(mask, copy) for mask, copy in zip(seen.masks, before))
    legend = 22 * 22  # the legend's square
    ran = sum(mask.float().mean() for mask in seen.masks)
    assert count(picture, RAN) == 200 * 200 * float(ran) + legend
    assert count(picture, SKIPPED) == 200 * 200 * (3 - float(ran)) + legend
    first = picture[:, 200 + 24 + 28:][:, :200]  # the first column of blocks
    rows = (first == RAN).all(axis=-1)
    found = [rows[top + 12:top + 200:25, 12::25] for top in range(rows.shape[0] - 200)]
    assert any(np.array_equal(f, seen.masks[0].numpy()) for f in found)


def test_the_soft_mask_sheet_draws_the_border_of_what_ran(tmp_path):
    seen, blocks = case()
    soft_mask_sheet(seen, blocks, tmp_path / "mixed.png")
    everywhere = Seen(seen.image, [torch.ones_like(m) for m in seen.masks], seen.soft_masks, "a", "b")
    soft_mask_sheet(everywhere, blocks, tmp_path / "everywhere.png")
    orange = [count(pixels(tmp_path / f"{name}.png"), np.array((213, 94, 0))) for name in ("mixed", "everywhere")]
    assert orange[0] > orange[1] + 1000 and orange[1] < 22 * 24 + 1


def test_the_ponder_picture_has_the_counts_of_the_masks(tmp_path):
    seen, _ = case()
    ponder_sheet(seen, tmp_path / "ponder.png")
    picture = pixels(tmp_path / "ponder.png")
    counts = sum(torch.nn.functional.interpolate(m[None, None].float(), (8, 8))[0, 0] for m in seen.masks).numpy()
    assert np.array_equal(ponder_map([m[None, None] for m in seen.masks], (8, 8))[0].numpy(), counts)
    side = 448  # 14 pixels for each of 32
    left = 24 + 2 * (side + 28)
    colours = (255 * colormaps["viridis"](counts / 3)[..., :3] + 0.5).astype(np.uint8)
    alone = picture[:, left:left + side]
    found = [alone[top + 28:top + side:56, 28::56] for top in range(picture.shape[0] - side)]
    assert any(np.array_equal(f, colours) for f in found)


def test_files_of_any_size_are_shown_and_classed_by_their_folder(files, tmp_path):
    outcome = visualize(f"checkpoint={files / 'run/checkpoints/best.pt'}", f"images={files / 'photos'}",
                        f"out={tmp_path}", "budgets.targets=[0.7]", "pictures=[masks,overview]")
    record = json.loads((tmp_path / "densities.json").read_text())
    assert [(image["name"], image["true"]) for image in record["images"]] == [("3-a", "3"), ("b $c$", None)]
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")} == {
        "overview.png", "3-a/masks_b070.png", "b $c$/masks_b070.png"}
    assert "of 1" in outcome.out  # one image with a known class
    shown = pixels(tmp_path / "3-a/masks_b070.png").astype(int)
    flat = abs(shown - (200, 90, 40)).max(axis=-1) <= 1  # as it was before the normalisation
    assert flat.sum() == 224 * 224


def test_a_checkpoint_whose_data_are_elsewhere_needs_only_images(files, tmp_path):
    outcome = visualize(f"checkpoint={files / 'away.pt'}", f"images={files / 'photos/3/a.png'}", f"out={tmp_path}",
                        "pictures=[density]")
    assert "classes are shown by number" in outcome.out and "away" in outcome.out
    record = json.loads((tmp_path / "densities.json").read_text())
    assert record["images"][0]["budgets"]["b030"]["predicted"].startswith("class ")
    assert record["blocks"][0]["mask"] == [32, 32]


def test_a_published_checkpoint(files, tmp_path):
    published = read_case("resnet18_multi")
    torch.save(published.checkpoint, tmp_path / "model_best.pth.tar")
    visualize(f"checkpoint={tmp_path}/model_best.pth.tar", "published=resnet18_multi", "data.image_size=64",
              f"images={files / 'photos/3/a.png'}", f"out={tmp_path / 'out'}", "pictures=[]")
    record = json.loads((tmp_path / "out/densities.json").read_text())
    assert [row["name"] for row in record["budgets"]] == ["b030", "b050", "b070"] and len(record["blocks"]) == 8


def test_a_file_of_bdsa_export(files, tmp_path):
    outcome = run(export_main, [f"checkpoint={files / 'away.pt'}", f"out={tmp_path}/net.safetensors"])
    assert outcome.code == 0, outcome.err
    visualize(f"checkpoint={tmp_path}/net.safetensors", f"images={files / 'photos/3/a.png'}", f"out={tmp_path / 'out'}",
              "pictures=[]", "data.image_size=32")
    assert len(json.loads((tmp_path / "out/densities.json").read_text())["blocks"]) == 3


def test_batches_change_no_mask(files):
    network = load_network(read_checkpoint(files / "away.pt"), "away.pt").eval()
    images = torch.randn(18, 3, 32, 32, generator=torch.Generator().manual_seed(1))  # more than one batch
    (answer,) = ask(network, images, [0.3], torch.device("cpu"))
    assert len(answer.predictions) == 18 and answer.densities().shape == (18, len(block_labels(network)))
    for mask, soft in zip(answer.masks, answer.soft_masks):
        assert mask.shape[0] == 18 and torch.equal(mask, soft >= 0.5)


def test_names_for_folders_are_unique_and_short():
    assert folder_names([Path("x/cat/1.png"), Path("x/dog/1.png")]) == ["cat-1", "dog-1"]
    assert folder_names([Path("x/a.png"), Path("x/A.jpg"), Path("x/a-2.png")]) == ["a", "A-2", "a-2-2"]


def test_patterns_and_lists_of_files(files):
    photos = files / "photos"
    assert find_image_files([f"{photos}/*/*.png", str(photos)]) == [photos / "3/a.png", photos / "b $c$.jpg"]


@pytest.mark.parametrize("arguments, expected", [
    (["images={files}/potos"], ["potos", "did you mean 'photos'"]),
    (["images={files}/photos/3/b.png"], ["b.png", "did you mean 'a.png'"]),
    (["images={files}/nowhere/at/all.png"], ["'nowhere'"]),
    (["images={files}/words.png"], ["words.png", "not an image"]),
    (["images={files}/empty"], ["empty", "no images"]),
    (["images={files}/*.gif"], ["*.gif", "no file"]),
    (["images=[]"], ["images=[]"]),
    (["images={files}/photos", "split=val"], ["split=val", "give one"]),
    (["images={files}/photos", "data=folder", "data.root={files}/away"], ["away"]),
    (["budgets.targets=[0.2]"], ["0.2 was not trained", "0.3, 0.7"]),
    (["budgets.targets=[0.3,1.0]"], ["dense", "0.3, 0.7"]),
    (["checkpoint={files}/dense.pt"], ["dense", "no masks"]),
    (["checkpoint={files}/weights.pt"], ["weights.pt", "published="]),
    (["checkpoint={files}/bst.pt"], ["bst.pt"]),
    (["published=resnet18"], ["leave out published=resnet18"]),
    (["pictures=[mask]"], ["did you mean 'masks'"]),
    (["out={files}/words.png"], ["words.png", "file"]),
    (["count=0"], ["count=0"]),
    (["data=folder", "data.root={files}/away"], ["away", "does not exist"]),
])
def test_bad_input_is_one_line(files, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    given = [a.format(files=files) for a in arguments]
    if not given[0].startswith("checkpoint"):
        given.insert(0, f"checkpoint={files / 'run/checkpoints/best.pt'}")
    before = set(files.rglob("*"))
    outcome = run(main, given)
    lines = outcome.err.strip().splitlines()
    assert outcome.code == 1 and len(lines) == 1 and lines[0].startswith("error: "), outcome.err
    assert all(text in lines[0] for text in expected), lines[0]
    assert set(files.rglob("*")) == before and not list(tmp_path.iterdir())


def test_a_published_file_of_one_budget_must_be_told_which(files, tmp_path):
    torch.save(read_case("convnext_tiny").checkpoint, tmp_path / "single.pth")
    arguments = [f"checkpoint={tmp_path / 'single.pth'}", "published=convnext_tiny"]
    assert "budgets.targets=[0.5]" in run(main, [*arguments, f"images={files / 'photos'}"]).err
    assert "which images?" in run(main, [*arguments, "budgets.targets=[0.5]"]).err
