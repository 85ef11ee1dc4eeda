"""Muon in batches against torch's own, which goes matrix by matrix in bfloat16: there the same bits."""

import copy
import io

import pytest
import torch

from smallvit.train.muon import Muon, orthogonalise, orthogonalise_padded

SHAPES = [(24, 8), (8, 8), (8, 24), (24, 8), (8, 8), (1, 8), (24, 8)]


def matrices(seed: int) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def take_steps(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], first: int, count: int) -> None:
    for step in range(first, first + count):
        for parameter, gradient in zip(parameters, matrices(100 + step), strict=True):
            parameter.grad = gradient.detach() * 10.0 ** (step - 2)
        if step == 1:
            parameters[3].grad = None
        optimizer.step()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_weights_and_state_are_torchs_bit_for_bit(decay: float) -> None:
    ours, theirs = matrices(0), matrices(0)
    batched = Muon(ours, lr=0.03, weight_decay=decay, dtype=torch.bfloat16)
    plain = torch.optim.Muon(theirs, lr=0.03, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    for optimizer, parameters in ((batched, ours), (plain, theirs)):
        take_steps(optimizer, parameters, 0, 4)
    assert batched.state_dict()["param_groups"] == plain.state_dict()["param_groups"]
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert torch.equal(a, b), SHAPES[index]
        assert torch.equal(batched.state[a]["momentum_buffer"], plain.state[b]["momentum_buffer"])
        assert batched.state[a].keys() == plain.state[b].keys()


def test_parts_of_a_parameter_are_matrices_of_their_own() -> None:
    whole, apart = matrices(0)[:1], [torch.nn.Parameter(part.detach().clone()) for part in matrices(0)[0].chunk(3)]
    groups = {"whole": [{"params": whole, "parts": 3}], "apart": [{"params": apart}]}
    for step in range(3):
        gradient = matrices(100 + step)[0].detach()
        whole[0].grad = gradient
        for part, own in zip(apart, gradient.chunk(3), strict=True):
            part.grad = own.clone()
        if step == 0:
            optimizers = [Muon(group, lr=0.03, weight_decay=0.1, dtype=torch.float32) for group in groups.values()]
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(whole[0].detach(), torch.cat([part.detach() for part in apart]))


def test_it_goes_on_from_torchs_state() -> None:
    ours = matrices(0)
    plain = torch.optim.Muon(ours, lr=0.03, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    take_steps(plain, ours, 0, 3)
    copied = copy.deepcopy(ours)
    batched = Muon(copied, lr=1.0, weight_decay=0.0, dtype=torch.bfloat16)
    batched.load_state_dict(copy.deepcopy(plain.state_dict()))
    take_steps(plain, ours, 3, 2)
    take_steps(batched, copied, 3, 2)
    assert all(torch.equal(a, b) for a, b in zip(ours, copied, strict=True))


def test_in_float32_updates_differ_from_torchs_by_no_more_than_bfloat16_rounds() -> None:
    ours, theirs = matrices(0), matrices(0)
    take_steps(Muon(ours, lr=1.0, weight_decay=0.0, dtype=torch.float32), ours, 0, 1)
    plain = torch.optim.Muon(theirs, lr=1.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    take_steps(plain, theirs, 0, 1)
    for before, a, b in zip(matrices(0), ours, theirs, strict=True):
        assert not torch.equal(a, b)
        assert (a - b).norm() < 0.1 * (a - before).norm()  # some 15 roundings to 8 bits, one after another


def test_a_rate_in_a_tensor_changes_nothing_but_rounding() -> None:
    plain, graphed = matrices(0), matrices(0)
    take_steps(Muon(plain, lr=0.03, weight_decay=0.1, dtype=torch.float32), plain, 0, 3)
    take_steps(Muon(graphed, lr=torch.tensor(0.03), weight_decay=0.1, dtype=torch.float32), graphed, 0, 3)
    torch.testing.assert_close(graphed, plain, rtol=1e-5, atol=1e-7)


def test_zeros_around_smaller_matrices_change_nothing() -> None:
    settings = (3.4445, -4.7750, 2.0315), 5, 1e-7
    given = [matrix.detach() * 10.0 ** (place - 3) for place, matrix in enumerate(matrices(0))]
    found = orthogonalise_padded(given, *settings)
    assert [direction.shape for direction in found] == [matrix.shape for matrix in given]
    for matrix, direction in zip(given, found, strict=True):
        torch.testing.assert_close(direction, orthogonalise([matrix], *settings)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(48, 192), (192, 48), (48, 64)])
@pytest.mark.parametrize("decades", [0, 3, 8])
def test_float32_is_as_float64_also_of_matrices_that_are_nearly_singular(shape: tuple[int, int], decades: int) -> None:
    settings = (3.4445, -4.7750, 2.0315), 5, 1e-7
    left, _, right = torch.linalg.svd(torch.randn(shape, generator=torch.Generator().manual_seed(0)).double(), False)
    given = left * torch.logspace(0, -decades, 48) @ right
    exact = orthogonalise([given], *settings)[0]
    found = orthogonalise([given.float()], *settings)[0]
    assert found.dtype == torch.float32
    assert (found - exact).norm() < 1e-3 * exact.norm()  # bfloat16: 1e-2


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (7, 7)])
def test_singular_values_come_near_to_one(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    given = [scale * torch.randn(shape, generator=generator) for scale in (1e-3, 1.0, 1e3)]
    found = orthogonalise(given, (3.4445, -4.7750, 2.0315), 5, 1e-7).float()
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.3
    assert values.max() < 1.4
    for matrix, direction in zip(given, found, strict=True):
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        assert ((left @ right) * direction).sum() > 0.9 * direction.norm() * (left @ right).norm()


def test_a_matrix_whose_gradients_were_all_zeros_stays_where_it_is() -> None:
    parameters = matrices(0)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    Muon(parameters, lr=0.03, weight_decay=0.0, dtype=torch.float32).step()
    assert all(torch.equal(a, b) for a, b in zip(parameters, matrices(0), strict=True))


@pytest.mark.parametrize("how", ["deepcopy", "torch.save"])
def test_a_copied_optimiser_goes_on_alike(how: str) -> None:
    parameters = matrices(0)
    optimizer = Muon(parameters, lr=0.03, weight_decay=0.1, dtype=torch.float32)
    take_steps(optimizer, parameters, 0, 2)
    if how == "deepcopy":
        copied = copy.deepcopy(optimizer)
    else:
        file = io.BytesIO()
        torch.save(optimizer, file)
        file.seek(0)
        copied = torch.load(file, weights_only=False)
    theirs = copied.param_groups[0]["params"]
    for each, ours in ((copied, theirs), (optimizer, parameters)):
        take_steps(each, ours, 2, 2)
    assert all(torch.equal(a, b) for a, b in zip(parameters, theirs, strict=True))
