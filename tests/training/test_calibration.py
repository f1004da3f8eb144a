"""What is measured after a training, beside thresholds: statistics of a dense path that no step trained."""
from __future__ import annotations

import torch
from sparse_cases import images_of, network_of

from bdsa.config.settings import BudgetsConfig, DataConfig, ModelConfig, RecipeConfig, TrainConfig, TrainerConfig
from bdsa.method.norms import BudgetBatchNorm2d
from bdsa.training.assembly import assemble
from bdsa.training.calibration import calibrate_dense_statistics
from bdsa.training.results import _calibrate


def test_a_dense_path_that_was_not_trained_gets_the_statistics_of_its_own_maps():
    network = network_of("cifar_resnet8")
    network.execution = "sparse"
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    norms = {name: module for name, module in network.named_modules() if isinstance(module, BudgetBatchNorm2d)}
    momenta, seen = {name: norm.momentum for name, norm in norms.items()}, {name: [] for name in norms}
    for name, norm in norms.items():
        norm.register_forward_pre_hook(lambda module, args, name=name: seen[name].append(args[0]))
    calibrate_dense_statistics(network, [images_of((4, 32, 32)), images_of((2, 24, 24))])
    after, own = network.state_dict(), set()
    for name, norm in norms.items():
        assert len(seen[name]) == 2 and norm.momentum == momenta[name] and not norm.training
        for key, found in (("mean", norm.running_mean), ("var", norm.running_var)):
            expected = torch.stack([getattr(x, key)((0, 2, 3)) for x in seen[name]]).mean(0)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        own |= {f"{name}.{key}" for key in ("running_mean", "running_var", "num_batches_tracked")}
    assert len(norms) == 6 and network.execution == "sparse"
    assert {name for name in before if not torch.equal(before[name], after[name])} == own


def test_the_batches_of_an_evaluation_decide_no_statistics():
    """trainer.eval_batch_size is free to change, so that nothing but how fast a run goes may depend on it."""
    states = []
    for size in (5, 20):
        config = TrainConfig(
            model=ModelConfig("cifar_resnet8"), budgets=BudgetsConfig([0.5], calibrate=False, calibration_images=20),
            data=DataConfig(image_size=32, train_images=24, val_images=20, test_images=8),
            recipe=RecipeConfig(batch_size=8), trainer=TrainerConfig(eval_batch_size=size))
        assembly = assemble(config, torch.device("cpu"))
        _calibrate(config, assembly, torch.device("cpu"))
        states.append(dict(assembly.network.named_buffers()))
    assert states[0].keys() == states[1].keys()
    assert not [name for name, buffer in states[0].items() if not torch.equal(buffer, states[1][name])]
