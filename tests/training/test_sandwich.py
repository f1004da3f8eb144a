"""Several budgets of the same batch in one step: the gradients of each, and the teacher's one look."""
from __future__ import annotations

import pytest
import torch
from steps import batch, make_step, state, take

from bdsa.budgets import Budgets
from bdsa.config.settings import BudgetsConfig, TeacherConfig, TrainConfig
from bdsa.errors import UserError
from bdsa.method.losses import distillation_loss
from bdsa.training.teachers import self_teacher

SANDWICH = {"schedule": "sandwich", "noise_until": 0.0}


def test_largest_and_smallest_are_in_every_step_and_those_between_take_turns():
    budgets = Budgets([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [budgets.sandwich_at(k, 1) for k in range(4)] == [
        (1.0, 0.2, 0.4), (1.0, 0.2, 0.6), (1.0, 0.2, 0.8), (1.0, 0.2, 0.4)]
    assert [budgets.sandwich_at(k, 2) for k in range(3)] == [
        (1.0, 0.2, 0.4, 0.6), (1.0, 0.2, 0.8, 0.4), (1.0, 0.2, 0.6, 0.8)]
    assert budgets.sandwich_at(5, 9) == (1.0, 0.2, 0.4, 0.6, 0.8) and budgets.sandwich_at(5, 0) == (1.0, 0.2)
    assert Budgets([0.5]).sandwich_at(3, 1) == (0.5,) and Budgets([0.3, 0.5]).sandwich_at(3, 1) == (0.5, 0.3)


def test_a_sandwich_adds_up_the_gradients_of_its_budgets():
    one, other = (make_step((0.3, 0.5, 0.7, 1.0), budgets_settings=SANDWICH) for _ in range(2))
    for step in (one, other):
        step.start_epoch(0)
    images, labels = batch(0)
    losses = one(0, images, labels)
    shaped = images.contiguous(memory_format=other.layout)
    apart = [other.losses(other.forward, shaped, labels, b, 0, 0.0, 1.0) for b in (1.0, 0.3, 0.5)]
    sum(each["total"] for each in apart).backward()
    other.update(1)
    for name, tensor in state(one.network).items():
        assert torch.allclose(tensor, other.network.state_dict()[name], rtol=1e-5, atol=1e-7), name
    assert losses["total"] == pytest.approx(float(sum(a["total"] for a in apart)) / 3, rel=1e-5)
    assert {n for n in losses if n.startswith("fraction/")} == {"fraction/b100", "fraction/b030", "fraction/b050"}


def test_the_teacher_looks_once_and_the_dense_budget_is_its_own_networks_teacher():
    looks, passes = [], []
    step = make_step((0.3, 0.5, 1.0), budgets_settings=SANDWICH, teacher={"kind": "self", "temperature": 2.0})
    step.losses.teacher = lambda network, images: looks.append(1) or torch.zeros(len(images), 10)
    take(step, 0, 2)
    assert len(looks) == 2  # steps, of three budgets each
    step.losses.teacher = self_teacher
    step.network.conv1.register_forward_hook(lambda *_: passes.append(1))
    losses = take(step, 2, 1)
    assert len(passes) == 3 and losses["kd"] > 0  # no further pass for the teacher


def test_the_largest_budget_hands_on_what_it_was_taught():
    step = make_step((0.3, 1.0), budgets_settings=SANDWICH,
                     teacher={"kind": "self", "temperature": 2.0, "weight": 1.0, "students": "largest"})
    told = torch.randn(4, 10)
    step.losses.teacher = lambda network, images: told
    step.start_epoch(0)
    images, labels = batch(0)
    lesson = step.losses.lesson(step.forward, images)
    largest = step.losses(step.forward, images, labels, 1.0, 0, 0.0, 1.0, lesson)
    smallest = step.losses(step.forward, images, labels, 0.3, 0, 0.0, 1.0, lesson)
    with torch.no_grad():
        dense, small = step.network(images, budget=1.0), step.network(images, budget=0.3)
    assert largest["kd"].item() == pytest.approx(float(distillation_loss(dense, told, 2.0)), rel=1e-4)
    assert smallest["kd"].item() == pytest.approx(float(distillation_loss(small, dense, 2.0)), rel=1e-4)


def test_handing_on_needs_a_sandwich():
    config = TrainConfig(teacher=TeacherConfig(kind="self", students="largest"), budgets=BudgetsConfig())
    with pytest.raises(UserError, match="teacher.students=largest needs a teacher and budgets.schedule=sandwich"):
        config.check()
