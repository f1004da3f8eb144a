"""Scenes of digits: what they state is in the picture, and the same words give the same scene."""
from __future__ import annotations

import pytest
import torch

from bdsa.data.digit_scenes import DigitScenes, collate
from bdsa.errors import UserError


def test_boxes_labels_and_masks_tell_of_the_same_digits():
    scenes = DigitScenes("test", (130, 200), count=8, digits=5)
    shown = 0
    for image, target in (scenes[i] for i in range(len(scenes))):
        assert image.shape == (3, 130, 200) and target["mask"].shape == (130, 200) and image.isfinite().all()
        covered = torch.zeros(130, 200, dtype=torch.bool)
        for (x0, y0, x1, y1), label in zip(target["boxes"].long().tolist(), target["labels"].tolist(), strict=True):
            inside = target["mask"][y0:y1, x0:x1]
            assert set(inside.unique().tolist()) == {0, label} and 1 <= label <= 10
            assert (inside[0] > 0).any() and (inside[-1] > 0).any()       # the box is as small as can be
            assert (inside[:, 0] > 0).any() and (inside[:, -1] > 0).any()
            covered[y0:y1, x0:x1] = True
            ink = image.mean(dim=0)[y0:y1, x0:x1]
            assert ink[inside > 0].mean() > ink[inside == 0].mean() + 0.5  # and the digit is brighter
            shown += 1
        assert not (target["mask"] > 0)[~covered].any()
    assert shown >= 8


def test_a_scene_follows_from_its_words():
    one, again, other = (DigitScenes("train", 96, 4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one[2][0], again[2][0]) and not torch.equal(one[2][0], other[2][0])
    longer = DigitScenes("train", 96, 9)
    assert torch.equal(longer[2][0], one[2][0]) and len(list(longer)) == 9
    images, targets = collate([one[0], one[1]])
    assert images.shape == (2, 3, 96, 96) and targets[1]["labels"].equal(one[1][1]["labels"])


@pytest.mark.parametrize("words, said", [(dict(split="all"), "unknown split 'all'"), (dict(size=64), "64 pixels"),
                                         (dict(digits=0), "digits=0")])
def test_what_cannot_be_is_said(words, said):
    with pytest.raises(UserError, match=said):
        DigitScenes(**{"split": "train", **words})
