"""What an evaluation says of a network, against scikit-learn's own count."""
from __future__ import annotations

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
