"""What torch says of a machine that cannot do what is asked becomes one line, with a way out."""

import pytest
import torch
from torch._dynamo.exc import TorchRuntimeError
from torch._inductor.compile_worker.subproc_pool import SubprocException
from torch._inductor.exc import CppCompileError, InductorError

from smallvit.errors import line_of

NO_COMPILER = "Failed to find C compiler. Please specify via CC environment variable or set triton.knobs.build.impl."
CPU = "the CPU, as where no GPU is seen (CUDA_VISIBLE_DEVICES=)"
IN_A_PROCESS = f"""Traceback (most recent call last):
  File "build.py", line 5, in _build
    raise RuntimeError(
    ^^^^^^^^^^^^^^^^^^^
RuntimeError: {NO_COMPILER}
"""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError(NO_COMPILER), f"RuntimeError: {NO_COMPILER}"),
        (SubprocException(IN_A_PROCESS), f"RuntimeError: {NO_COMPILER}"),
        (CppCompileError(["c++"], "In file included from\nx.cpp:3:4: error: no omp.h\n"), "x.cpp:3:4: error: no omp.h"),
        (RuntimeError("x " * 1000), f"RuntimeError: {'x ' * 141}..."),
    ],
)
def test_what_cannot_be_compiled_is_said_with_what_does_without(error: Exception, said: str) -> None:
    wanted = f"torch.compile cannot compile here: {said}; --device.compile off does without it; or {CPU}"
    assert line_of(InductorError(error, None)) == wanted


@pytest.mark.parametrize("kind", [RuntimeError, torch.AcceleratorError])
def test_a_gpu_that_torch_has_no_code_for_is_said(kind: type[Exception]) -> None:
    error = kind("CUDA error: no kernel image is available for execution on the device\nSearch for `cudaErr")
    wanted = f"this torch has no code for this GPU (no kernel image): another build of torch, or {CPU}"
    assert line_of(error) == wanted


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("No available kernel. Aborting execution."), "No available kernel"),
        (TorchRuntimeError("with fake tensors: got RuntimeError('No available kernel. Abort"), "No available kernel"),
        (RuntimeError("cuDNN Frontend error: No valid plans\n{}"), "cuDNN Frontend error: No valid plans"),
    ],
)
def test_an_attention_that_a_gpu_does_not_have_is_said(error: Exception, said: str) -> None:
    line = line_of(error)
    assert line is not None
    assert line.startswith(f"the attention that was chosen does not work on this GPU ({said}): train takes another")
    assert "--device.attention sdpa" in line


def test_a_fault_of_the_program_is_none_of_the_users() -> None:
    assert line_of(RuntimeError("shapes [2] and [3] differ")) is None
