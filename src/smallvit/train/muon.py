"""Muon (Jordan et al., 2024) as torch has it, in bfloat16 to the bit on a CPU, but for many matrices at once.

torch's goes matrix by matrix, 15 small products each: on a GPU 36 block matrices are some 800 launches. And always in
bfloat16, which a CPU without arithmetic for it multiplies several times slower than float32. In float32 a CPU does it
with less arithmetic, too.
Shapes: n matrices of one shape, R rows, C columns.
"""

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false
# torch's optimisers call these `_foreach_` functions, its only ones for a list of tensors.

from collections import defaultdict
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


class Muon(torch.optim.Muon):
    """Torch's Muon with updates scaled to the size of AdamW's; same state, and in bfloat16 on a CPU the same results.

    `dtype` is that of the products that orthogonalise; `lr` may be a tensor of one value on the parameters' device. In
    a group with `parts` each parameter is so many matrices, one below the other.
    """

    def __init__(self, params: Any, *, lr: float | Tensor, weight_decay: float, dtype: torch.dtype) -> None:
        super().__init__(params, lr=cast("float", lr), weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self._dtype = dtype

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs, too."""
        return {**super().__getstate__(), "_dtype": self._dtype}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            self._step_group([parameter for parameter in group["params"] if parameter.grad is not None], group)
        return loss

    def _step_group(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        if not parameters:
            return
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers: list[Tensor] = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        momentum, lr = group["momentum"], group["lr"]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        updates = list(torch._foreach_lerp(gradients, buffers, momentum))
        parts = group.get("parts", 1)
        inputs = [part for update in updates for part in update.to(self._dtype).chunk(parts)]
        settings = group["ns_coefficients"], group["ns_steps"], group["eps"]
        found = orthogonalise_padded(inputs, *settings) if inputs[0].is_cuda else orthogonalise_alike(inputs, *settings)
        if parts > 1:
            found = [torch.cat(found[first : first + parts]) for first in range(0, len(found), parts)]
        # Contiguous, as parameters are: of a list that lies otherwise `_foreach_` goes one by one.
        directions = [each.to(parameters[0].dtype, memory_format=torch.contiguous_format) for each in found]
        scales = [0.2 * max(rows // parts, columns) ** 0.5 for rows, columns in (p.shape for p in parameters)]
        torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        if isinstance(lr, Tensor):  # a CUDA graph would repeat the value of a number
            torch._foreach_mul_(directions, scales)
            torch._foreach_mul_(directions, -lr)
            torch._foreach_add_(parameters, directions)
        else:
            for parameter, direction, scale in zip(parameters, directions, scales, strict=True):
                parameter.add_(direction, alpha=-lr * scale)


def orthogonalise(
    matrices: list[Float[Tensor, "R C"]], coefficients: tuple[float, float, float], steps: int, eps: float
) -> Float[Tensor, "n R C"]:
    """Return near-orthogonal matrices by a quintic Newton-Schulz iteration: singular values up to some 1.2,
    of which small ones, as square matrices have them, stay smaller.

    All is done in the matrices' own type.
    """
    norms = torch.stack(list(torch._foreach_norm(matrices))).clamp(min=eps)
    x = torch.stack(matrices) / norms[:, None, None]
    is_tall = x.shape[1] > x.shape[2]
    x = x.mT if is_tall else x
    # Squares are for precise products: in bfloat16, or a GPU's TF32, negative eigenvalues by rounding would grow.
    is_long = x.shape[2] >= 2 * x.shape[1] and x.dtype == torch.float32 and x.device.type == "cpu"
    x = (_by_gram_matrices if is_long else _directly)(x, coefficients, steps)
    return x.mT if is_tall else x


def _directly(
    x: Float[Tensor, "n R C"], coefficients: tuple[float, float, float], steps: int
) -> Float[Tensor, "n R C"]:
    a, b, c = coefficients
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _by_gram_matrices(
    x: Float[Tensor, "n R C"], coefficients: tuple[float, float, float], steps: int
) -> Float[Tensor, "n R C"]:
    """Return what `_directly` does but for rounding, with two products by the long side instead of two a step.

    Each step multiplies X by a polynomial of its Gram matrix, so the Gram matrix and the product of the polynomials,
    [R, R] both, are all that steps need (Zhang, Amsel, Chen and Dao, 2026, "Gram Newton-Schulz").
    """
    a, b, c = coefficients
    gram = torch.bmm(x, x.mT)

    def polynomial() -> Tensor:
        found = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        found.diagonal(dim1=1, dim2=2).add_(a)
        return found

    product = last = polynomial()
    for _ in range(steps - 1):
        gram = torch.bmm(torch.bmm(last, gram), last)
        last = polynomial()
        product = torch.bmm(last, product)
    return torch.bmm(product, x)


def orthogonalise_alike(
    matrices: list[Tensor], coefficients: tuple[float, float, float], steps: int, eps: float
) -> list[Tensor]:
    """Return `orthogonalise` of matrices of any shapes, those of one shape at once."""
    places: defaultdict[torch.Size, list[int]] = defaultdict(list)
    for place, matrix in enumerate(matrices):
        places[matrix.shape].append(place)
    found = list(matrices)
    for alike in places.values():
        directions = orthogonalise([matrices[place] for place in alike], coefficients, steps, eps)
        for place, direction in zip(alike, directions, strict=True):
            found[place] = direction
    return found


def orthogonalise_padded(
    matrices: list[Tensor], coefficients: tuple[float, float, float], steps: int, eps: float
) -> list[Tensor]:
    """Return `orthogonalise` of matrices of any shapes, all at once: what a GPU wants, which multiplies zeros sooner
    than it launches another product.

    They lie on their longer side, the smaller ones with zeros around, which stay zeros.
    """
    flat = [matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix for matrix in matrices]
    rows, columns = (max(matrix.shape[side] for matrix in flat) for side in (0, 1))
    padded = [F.pad(matrix, (0, columns - matrix.shape[1], 0, rows - matrix.shape[0])) for matrix in flat]
    found: list[Tensor] = []
    for matrix, direction in zip(matrices, orthogonalise(padded, coefficients, steps, eps), strict=True):
        short, long = sorted(matrix.shape)
        direction = direction[:short, :long]
        found.append(direction.mT if matrix.shape[0] > matrix.shape[1] else direction)
    return found
