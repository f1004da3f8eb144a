"""What a recipe does to the weights: schedule, groups, freezing, accumulation, mixing, averaging, precision."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from steps import batch, make_step, state, take

import bdsa
from bdsa.config.options import shipped_folder
from bdsa.config.settings import RecipeConfig
from bdsa.training.optimization import create_optimizer, create_schedule, parameter_groups


def tiny(budgets=(0.3, 0.7), **options):
    torch.manual_seed(0)
    return bdsa.create_model("cifar_resnet8", list(budgets), num_classes=10, **options)


def is_mask(name: str) -> bool:
    return ".mask_units." in name


def is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def preset(name: str) -> RecipeConfig:
    recipe = RecipeConfig(**OmegaConf.to_container(OmegaConf.load(shipped_folder("conf") / f"recipe/{name}.yaml")))
    recipe.check()
    return recipe


@pytest.mark.parametrize("name, images, norms, paper", [
    ("resnet_imagenet", 64, 1e-4, dict(epochs=100, lr=0.025, momentum=0.9, weight_decay=1e-4, milestones=[30, 60, 90],
                                       mixup=0, cutmix=0, label_smoothing=0, ema_decay=None)),
    ("resnet_cifar", 256, 5e-4, dict(epochs=350, lr=0.1, momentum=0.9, weight_decay=5e-4, milestones=[150, 250],
                                     mixup=0, cutmix=0, label_smoothing=0, ema_decay=None)),
    ("convnext_imagenet", 4096, 0.0, dict(epochs=120, lr=4e-3, optimizer="adamw", weight_decay=0.05, min_lr=1e-6,
                                          warmup_epochs=20, backbone_lr_scale=0.2, freeze_backbone_epochs=5,
                                          mixup=0.8, cutmix=1.0, label_smoothing=0.1, ema_decay=0.9999))])
def test_published_recipes_are_those_of_the_paper(name, images, norms, paper):
    recipe, network = preset(name), tiny()
    assert {key: getattr(recipe, key) for key in paper} == paper
    optimizer = create_optimizer(network, recipe)
    assert recipe.batch_size * recipe.accumulation == images
    for group in optimizer.param_groups:
        assert group["weight_decay"] == (norms if group["params"][0].ndim == 1 else recipe.weight_decay)
        assert not group.get("nesterov")
    schedule = create_schedule(optimizer, recipe, updates_per_epoch=2)
    rates = []
    for epoch in range(recipe.epochs + 1):
        schedule.step_update(2 * epoch)
        rates.append(optimizer.param_groups[-1]["lr"])                     # of the mask units
    assert max(rates) == pytest.approx(recipe.lr)
    if recipe.schedule == "cosine":
        assert rates[20] == pytest.approx(4e-3) and rates[120] == pytest.approx(1e-6)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2e-6)
    else:
        drops = [e for e in range(1, recipe.epochs + 1) if rates[e] < rates[e - 1]]
        assert drops == recipe.milestones and rates[-1] == pytest.approx(recipe.lr * 0.1 ** len(drops))


def test_cosine_starts_after_the_warm_up_and_ends_at_min_lr():
    recipe = RecipeConfig(epochs=10, lr=1.0, warmup_epochs=2, min_lr=0.01)
    optimizer = create_optimizer(tiny(), recipe)
    schedule = create_schedule(optimizer, recipe, updates_per_epoch=5)
    rates = []
    for update in range(51):
        schedule.step_update(update)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.01) and max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[30] == pytest.approx(0.505) and rates[50] == pytest.approx(0.01)
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize("decay_norms", [False, True])
def test_each_parameter_has_the_rate_and_decay_of_its_kind(decay_norms):
    network = tiny()
    recipe = RecipeConfig(weight_decay=0.1, mask_weight_decay=0.2, backbone_lr_scale=0.3, mask_lr_scale=0.4,
                          decay_norms=decay_norms)
    found = {id(p): (g["lr_scale"], g["weight_decay"]) for g in parameter_groups(network, recipe) for p in g["params"]}
    assert len(found) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        decay = 0.2 if is_mask(name) else 0.1
        if parameter.ndim == 1 and not decay_norms:
            decay = 0.0
        assert found[id(parameter)] == (0.4 if is_mask(name) else 0.3, decay), name


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_backbone_learns_at_its_own_rate(schedule):
    step = make_step(schedule=schedule, lr=0.1, backbone_lr_scale=0.2, accumulation=3)
    take(step, 0, 6)
    rates = {g["lr_scale"]: g["lr"] for g in step.optimizer.param_groups}
    assert rates[0.2] == pytest.approx(0.2 * rates[1.0]) and step.learning_rate == pytest.approx(rates[1.0])


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_a_frozen_backbone_stays_bit_for_bit_while_masks_learn_and_statistics_are_measured(optimizer):
    step = make_step(optimizer=optimizer, lr=0.1, weight_decay=0.5, freeze_backbone_epochs=2, clip_grad=1.0)
    before = state(step.network)
    take(step, 0, 2 * step.per_epoch)
    moved = {name for name, tensor in state(step.network).items() if not torch.equal(tensor, before[name])}
    assert moved and all(is_mask(name) or is_statistic(name) for name in moved)
    assert {name for name in before if is_mask(name)} <= moved
    assert "layer1.0.bn1.per_budget.b030.running_mean" in moved
    take(step, 2 * step.per_epoch, 3)
    assert not torch.equal(step.network.conv1.weight, before["conv1.weight"])


def test_an_update_follows_the_mean_gradient_of_its_micro_batches():
    options = dict(budgets=(0.3, 0.7), noise_until=0.0, accumulation=2, optimizer="momentum", momentum=0.0, lr=0.5,
                   weight_decay=0.0, schedule="constant")
    step, single = make_step(**options), make_step(**options)
    start, expected = state(step.network), {}
    for number in (0, 1):  # apart, and not through the step
        single.network.load_state_dict(start)
        single.network.zero_grad()
        losses = single.losses(single.network, *batch(number), (0.3, 0.7)[number], 0, number / single.total, 1.0)
        losses["total"].backward()
        for name, parameter in single.network.named_parameters():
            if parameter.grad is not None:
                expected[name] = expected.get(name, 0) + parameter.grad / 2
    take(step, 0, 2)
    assert len(expected) > 40
    for name, parameter in step.network.named_parameters():
        torch.testing.assert_close(parameter.detach(), start[name] - 0.5 * expected.get(name, 0), rtol=1e-4, atol=1e-6)


def test_every_budget_gets_the_same_number_of_batches_and_no_gradient_crosses_an_epoch():
    step = make_step(budgets=(0.3, 0.5, 0.7, 0.9), accumulation=3, images=28)     # 7 batches an epoch
    assert step.per_epoch == 6
    seen = []
    step.network.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["budget"]),
                                           with_kwargs=True)
    for epoch in range(2):
        take(step, epoch * step.per_epoch, step.per_epoch)
        assert all(p.grad is None for p in step.network.parameters())
    assert {budget: seen.count(budget) for budget in seen} == {0.3: 3, 0.5: 3, 0.7: 3, 0.9: 3}


def test_mixed_labels_are_smoothed_once_and_the_callers_images_stay():
    step = make_step(mixup=0.8, cutmix=1.0, label_smoothing=0.1, trainer={"channels_last": False})
    images, labels = batch(0)
    kept = images.clone()
    step.start_epoch(0)
    np.random.seed(7)
    given = []
    step.network.register_forward_pre_hook(lambda module, args, kwargs: given.append(args[0].clone()),
                                           with_kwargs=True)
    logits = []
    step.network.register_forward_hook(lambda module, args, output: logits.append(output[0].detach()))
    losses = step(0, images, labels)
    assert torch.equal(images, kept) and not torch.equal(given[0], kept)
    np.random.seed(7)
    _, soft = step.mixup(images.clone(), labels)
    assert torch.allclose(soft.sum(dim=1), torch.ones(4)) and float(soft.min()) == pytest.approx(0.01)
    expected = -(soft * logits[0].log_softmax(dim=1)).sum(dim=1).mean()
    assert float(losses["task"]) == pytest.approx(float(expected), rel=1e-5)


def test_labels_are_smoothed_where_nothing_is_mixed():
    step, (images, labels) = make_step(label_smoothing=0.1), batch(0)
    logits = []
    step.network.register_forward_hook(lambda module, args, output: logits.append(output[0].detach()))
    step.start_epoch(0)
    losses = step(0, images, labels)
    soft = torch.full((4, 10), 0.01).scatter_(1, labels[:, None], 0.91)
    expected = -(soft * logits[0].log_softmax(dim=1)).sum(dim=1).mean()
    assert float(losses["task"]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("clip_grad, longest", [(0.01, 0.01), (None, None)])
def test_a_gradient_is_no_longer_than_clip_grad(clip_grad, longest):
    step = make_step(optimizer="momentum", momentum=0.0, lr=1.0, weight_decay=0.0, schedule="constant",
                     clip_grad=clip_grad)
    before = {name: p.detach().clone() for name, p in step.network.named_parameters()}
    take(step, 0, 1)
    moved = torch.cat([(p.detach() - before[n]).flatten() for n, p in step.network.named_parameters()]).norm()
    assert float(moved) == pytest.approx(longest, rel=1e-3) if longest else float(moved) > 0.1


@pytest.mark.parametrize("epochs", [(0, 0), (0, 1)])
def test_mixing_replays_by_epoch(epochs):
    drawn = []
    for epoch in epochs:
        step = make_step(mixup=0.8, cutmix=1.0)
        np.random.rand(5)
        step.start_epoch(epoch)
        drawn.append(torch.cat([step.mixup(*batch(k))[0] for k in range(3)]))
    assert torch.equal(*drawn) == (epochs == (0, 0))


def test_the_average_is_of_weights_and_statistics_and_copies_counters():
    step = make_step(ema_decay=0.75, accumulation=2)
    expected = state(step.network)
    for number in range(8):
        take(step, number, 1)
        if number % 2:
            for name, tensor in step.network.state_dict().items():
                new = 0.75 * expected[name] + 0.25 * tensor if tensor.is_floating_point() else tensor.clone()
                expected[name] = new
    averaged = step.ema.module.state_dict()
    assert averaged.keys() == expected.keys() and not step.ema.module.training
    for name, tensor in expected.items():
        torch.testing.assert_close(averaged[name], tensor, rtol=1e-5, atol=1e-6)
    assert not torch.equal(averaged["conv1.weight"], step.network.conv1.weight)


def test_drop_path_is_the_networks_and_no_part_of_its_form():
    step = make_step(drop_path=0.5)
    assert step.network.layer3[0].drop_path.drop_prob == pytest.approx(0.5)
    make_step().network.load_state_dict(step.network.state_dict())


@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
def test_mixed_precision_computes_in_half_and_decides_and_weighs_in_single(amp):
    step = make_step(trainer={"amp": amp}, teacher={"kind": "self"})
    seen = []
    step.network.register_forward_hook(lambda module, args, output: seen.append(output))
    losses = take(step, 0, 1)
    (logits, usage), taught = seen
    assert logits.dtype == taught.dtype == getattr(torch, amp)
    assert not taught.requires_grad and usage.mask_logits[0].dtype == torch.float32
    assert {name for name, loss in losses.items() if loss.dtype != torch.float32} == {"fraction/b030"}
    assert all(p.dtype == torch.float32 for p in step.network.parameters())
    before = step.network.conv1.weight.detach().clone()
    take(step, 1, 2)
    moved = step.network.conv1.weight.detach() - before
    single = make_step(teacher={"kind": "self"})
    take(single, 0, 3)
    assert float(moved.norm()) > 0
    assert float((moved + before - single.network.conv1.weight.detach()).norm()) < float(moved.norm())
    assert (step.state_dict()["scaler"] != {}) == (amp == "float16")


def test_float16_skips_an_update_that_overflows_and_its_scale_is_resumed():
    step = make_step(trainer={"amp": "float16"}, clip_grad=1.0)
    step.start_epoch(0)
    step.scaler.scale(torch.zeros(()))
    step.scaler.update(2.0 ** 40)                                  # the scaled loss overflows
    before = state(step.network)
    take(step, 0, 1)
    assert all(torch.equal(p, before[n]) for n, p in step.network.named_parameters())
    assert step.scaler.get_scale() == 2.0 ** 39
    other = make_step(trainer={"amp": "float16"})
    other.load_state_dict(step.state_dict())
    assert other.scaler.get_scale() == 2.0 ** 39
