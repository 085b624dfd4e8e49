"""The same bits on processors of other kinds: with the instructions of this one taken away, nothing changes."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import sys

import numpy as np
import daskxent as dx

rng = np.random.default_rng(7)
x = rng.normal(size=(600, 150)).astype(np.float32) * 8
y = rng.integers(0, 150, 600)
w = rng.random(600)
p = rng.integers(0, 200, (600, 150)).astype(np.float32) / np.float32(15000)
if "float16" in sys.argv[1:]:
    few = rng.normal(size=(600, 40)).astype(np.float16)
    print(dx.evaluate(y % 40, few, from_logits=True).state.to_json())
for predictions, from_logits in ((x, True), (x.astype(np.float16), True), (p, False), (x.astype(np.float64), True)):
    if predictions.dtype.name in sys.argv[1:]:
        report = dx.evaluate(y, predictions, sample_weight=w, from_logits=from_logits)
        print(report.state.to_json())
"""


DTYPES = ("float16", "float32", "float64")

DEMO = """
import hashlib

from daskxent import demo

rows = demo._RowSource(seed=0).read(0, 20_000)
print(hashlib.sha256(b"".join(values.tobytes() for values in rows)).hexdigest())
"""


PERPLEXITY = """
import numpy as np

from daskxent.numbers import statistics

print([statistics.metric("perplexity").finish(mean) for mean in np.random.default_rng(0).random(20_000) * 20])
"""


@pytest.fixture
def bare():
    """Return the environment of a processor without wide vectors and fused operations."""
    # "generic" is any x86-64 (or any ARM) processor: no AVX, no FMA, no half precision in hardware. NumPy's names of
    # what it can do without are those of its version; it does not mind others.
    return {
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "NPY_DISABLE_CPU_FEATURES": " ".join(np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])),
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4",  # of glibc's exp and log there are several
    }


def output(program, *arguments, **environment):
    """Run a program; what it compiles for another processor is kept next to what is compiled for this one."""
    command = [sys.executable, "-c", program, *arguments]
    environment = {**os.environ, **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=240).stdout


def test_a_processor_without_wide_vectors_and_fused_operations_gives_the_same_bits(bare):
    assert output(PROGRAM, *DTYPES, **bare) == output(PROGRAM, *DTYPES)


def test_perplexity_is_the_same_without_fused_operations(bare):
    assert output(PERPLEXITY, **bare) == output(PERPLEXITY)


@pytest.mark.parametrize("core", ["Nehalem", "Haswell"])  # what BLAS takes the processor for: without and with FMA
def test_the_demo_is_the_same_on_other_processors(core, bare):
    assert output(DEMO, **bare, OPENBLAS_CORETYPE=core) == output(DEMO)


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="names of x86")
@pytest.mark.parametrize(("without", "dtype"), [("avx512dq", "float32"), ("f16c", "float16")])
def test_an_x86_without_an_instruction_that_kernels_ask_for_gives_the_same_bits(without, dtype):
    assert output(PROGRAM, dtype, NUMBA_CPU_FEATURES=f"-{without}") == output(PROGRAM, dtype)
