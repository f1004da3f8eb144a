"""What an evaluation says of a network, against scikit-learn's own count."""
from __future__ import annotations

import copy

import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

import bdsa
from bdsa.training.evaluation import evaluate


@pytest.mark.parametrize("classes", [10, 12])
def test_top5_is_measured_where_there_are_more_than_ten_classes(classes):
    torch.manual_seed(0)
    network = bdsa.create_model("cifar_resnet8", [0.5], num_classes=classes).eval()
    images, labels = torch.randn(48, 3, 32, 32), torch.randint(0, classes, (48,))
    rows = evaluate(network, [(images[:30], labels[:30]), (images[30:], labels[30:])], [0.5, 1.0],
                    torch.device("cpu")).rows
    for row in rows:
        with torch.inference_mode():
            scores = network(images, budget=row["budget"]).numpy()
        for k in (1, 5):
            expected = 100 * top_k_accuracy_score(labels, scores, k=k, labels=range(classes))
            assert row.get(f"top{k}", expected) == pytest.approx(expected, abs=1e-4)
        assert ("top5" in row) is (classes > 10)


def test_a_reference_says_what_was_decided_otherwise():
    torch.manual_seed(0)
    network = bdsa.create_model("cifar_resnet8", [0.5], num_classes=10).eval()
    other = copy.deepcopy(network)
    with torch.no_grad():
        for block in other.adaptive_blocks():
            for unit in block.mask_units.values():
                unit.conv.bias += 0.3                            # more positions run
    images, labels = torch.randn(48, 3, 32, 32), torch.randint(0, 10, (48,))
    loader = [(images[:30], labels[:30]), (images[30:], labels[30:])]
    alone, beside = (evaluate(network, loader, [0.5, 1.0], torch.device("cpu"), reference=r).rows
                     for r in (None, other))
    for row, before in zip(beside, alone, strict=True):
        assert {key: row[key] for key in before} == before and "reference_top1" not in before
        with torch.inference_mode():
            (_, used), (logits, others) = (n(images, budget=row["budget"], return_usage=True) for n in (network, other))
        decided, otherwise = (torch.cat([m.flatten() for m in usage.masks]) for usage in (used, others))
        assert row["decisions_differ"] == pytest.approx(float((decided != otherwise).double().mean()))
        assert row["reference_top1"] == pytest.approx(100 * float((logits.argmax(1) == labels).double().mean()))
    assert beside[0]["decisions_differ"] > 0 == beside[1]["decisions_differ"]
