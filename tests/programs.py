"""Programs that run in a process without the tests' import hook, whose checks of every function no graph can hold; one
after the other, since what costs most is to import torch and its compiler.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping


def failures(programs: Mapping[str, str]) -> dict[str, str]:
    """Run programs by name, each as if it were alone, and return what each failed with: nothing if it did not."""
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(programs),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    unreached = dict.fromkeys(programs, f"status {done.returncode} before it ended: {done.stderr[-3000:]}")
    return unreached | dict(map(json.loads, done.stdout.splitlines()))


if __name__ == "__main__":
    import torch
    from torch._dynamo.utils import counters

    for name, program in json.load(sys.stdin).items():
        torch.compiler.reset()
        counters.clear()
        failure = ""
        try:
            exec(program, {})
        except Exception:
            failure = traceback.format_exc()[-3000:]
        print(json.dumps([name, failure]), flush=True)
