"""Muon (Jordan et al., 2024) as torch has it, in bfloat16 to the bit, but for all matrices of one shape at once.

torch's goes matrix by matrix, 17 small products each: on a GPU 36 block matrices are some 800 launches. And always in
bfloat16, which a CPU without arithmetic for it multiplies several times slower than float32.
Shapes: n matrices of one shape, R rows, C columns.
"""

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false
# torch's optimisers call these `_foreach_` functions, its only ones for a list of tensors.

from collections import defaultdict
from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor


class Muon(torch.optim.Muon):
    """Torch's Muon with updates scaled to the size of AdamW's; same state, and in bfloat16 the same results.

    `dtype` is that of the products that orthogonalise; `lr` may be a tensor of one value on the parameters' device.
    """

    def __init__(self, params: Any, *, lr: float | Tensor, weight_decay: float, dtype: torch.dtype) -> None:
        super().__init__(params, lr=cast("float", lr), weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            alike: defaultdict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for parameters in alike.values():
                self._step_alike(parameters, group)
        return loss

    def _step_alike(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers: list[Tensor] = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        momentum, lr = group["momentum"], group["lr"]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        updates = list(torch._foreach_lerp(gradients, buffers, momentum)) if group["nesterov"] else buffers
        inputs = [update.to(self._dtype) for update in updates]
        directions = orthogonalise(inputs, group["ns_coefficients"], group["ns_steps"], group["eps"])
        torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        scale = 0.2 * max(parameters[0].shape) ** 0.5
        directions = directions.to(parameters[0].dtype)
        if isinstance(lr, Tensor):  # a CUDA graph would repeat the value of a number
            torch._foreach_add_(parameters, list(directions * (-lr * scale)))
        else:
            torch._foreach_add_(parameters, list(directions), alpha=-lr * scale)


def orthogonalise(
    matrices: list[Float[Tensor, "R C"]], coefficients: tuple[float, float, float], steps: int, eps: float
) -> Float[Tensor, "n R C"]:
    """Return near-orthogonal matrices, singular values some 0.5 to 1.5, by a quintic Newton-Schulz iteration.

    All is done in the matrices' own type.
    """
    a, b, c = coefficients
    norms = torch.stack(list(torch._foreach_norm(matrices))).clamp(min=eps)
    x = torch.stack(matrices) / norms[:, None, None]
    is_tall = x.shape[1] > x.shape[2]
    x = x.mT if is_tall else x
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
