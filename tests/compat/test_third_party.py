"""Libraries that were written for Ray do their work under `nbray.compat`, as they are.

``pip install -e '.[third-party]'`` brings them, best into an environment of their own, whose Python
the variable THIRD_PARTY_PYTHON names, as `make test-slow` does; what is not there is skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = {
    "cubed": """
import cubed, cubed.array_api as xp, numpy as np
from cubed.runtime.executors.ray import RayExecutor

spec = cubed.Spec(work_dir="work", allowed_mem="200MB", executor=RayExecutor(retries=1))
numbers = xp.asarray(np.arange(10000.0).reshape(100, 100), chunks=(20, 20), spec=spec)
product = xp.matmul(numbers, xp.add(numbers, 1))
whole = np.arange(10000.0).reshape(100, 100)
print(float(xp.sum(product).compute()) == float((whole @ (whole + 1)).sum()))
""",
    "daft": """
import daft
import ray

ray.init(num_cpus=2)
daft.set_runner_ray(noop_if_initialized=True)

@daft.func
def double(x: int) -> int:
    return 2 * x

frame = daft.from_pydict({"a": list(range(1000)), "b": [i % 7 for i in range(1000)]})
sums = frame.groupby("b").agg(daft.col("a").sum()).sort("b").to_pydict()
doubled = frame.with_column("c", double(daft.col("a"))).sort("a").limit(3).to_pydict()
print(sums["a"] == [sum(range(b, 1000, 7)) for b in range(7)], doubled["c"])
""",
    "datatrove": """
from pathlib import Path

import ray
from datatrove.data import Document
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.writers.jsonl import JsonlWriter

ray.init(num_cpus=2)
documents = [Document(text=f"text {i}", id=str(i)) for i in range(20)]
even = LambdaFilter(lambda document: int(document.id) % 2 == 0)
RayPipelineExecutor(
    pipeline=[documents, even, JsonlWriter("written", compression=None)], tasks=4, workers=2,
    logging_dir="logs", cpus_per_task=1,
).run()
written = list(Path("written").glob("*.jsonl"))
print(len(written), {len(path.read_text().splitlines()) for path in written})
""",
    "hamilton": """
from pathlib import Path

import ray
from hamilton import base, driver
from hamilton.plugins import h_ray

Path("steps.py").write_text(
    "def a(x: int) -> int:\\n    return x + 1\\n"
    "def b(a: int) -> int:\\n    return a * 2\\n"
    "def c(a: int, b: int) -> int:\\n    return a + b\\n"
)
import steps

ray.init(num_cpus=2)
adapter = h_ray.RayGraphAdapter(result_builder=base.DictResult())
print(driver.Driver({"x": 3}, steps, adapter=adapter).execute(["a", "b", "c"]))
""",
    "joblib": """
import joblib
from ray.util.joblib import register_ray
from ray.util.multiprocessing.pool import Pool

register_ray()
with joblib.parallel_backend("ray"):
    squares = joblib.Parallel(n_jobs=2)(joblib.delayed(pow)(i, 2) for i in range(50))
with Pool(2) as pool:
    print(sum(squares), pool.map(abs, [-1, -2]))
""",
    "modin": """
import numpy as np
import modin.config
modin.config.Engine.put("Ray")
import modin.pandas as pd

df = pd.DataFrame({"a": np.arange(20000) % 7, "b": np.arange(20000.0), "c": ["x", "y"] * 10000})
assert type(df._query_compiler).__name__ == "PandasQueryCompiler"
assert df["b"].sum() == 199990000.0
means = df.groupby("a")["b"].mean()
assert means.to_dict()[0] == np.arange(0.0, 20000, 7).mean() and len(means) == 7
assert df.merge(pd.DataFrame({"a": range(7), "n": list("abcdefg")}), on="a").shape == (20000, 4)
assert list(df.sort_values("b", ascending=False).head(3)["b"]) == [19999.0, 19998.0, 19997.0]
assert df.pivot_table(index="a", columns="c", values="b", aggfunc="mean").shape == (7, 2)
assert df.apply(lambda row: row["b"] * 2, axis=1).sum() == 399980000.0
assert df.query("a == 3").shape[0] == df.describe().shape[0] + 2857 - 8
df.to_csv("frame.csv", index=False)
print(pd.read_csv("frame.csv").shape)
""",
    "pymoo": """
import ray
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.core.problem import ElementwiseProblem
from pymoo.optimize import minimize
from pymoo.parallelization.ray import RayParallelization

class Sphere(ElementwiseProblem):
    def __init__(self, **kwargs):
        super().__init__(n_var=3, n_obj=1, xl=-2, xu=2, **kwargs)
    def _evaluate(self, x, out, *args, **kwargs):
        out["F"] = (x**2).sum()

ray.init(num_cpus=2)
runner = RayParallelization(job_resources={"num_cpus": 1})
best = minimize(Sphere(elementwise_runner=runner), GA(pop_size=20), ("n_gen", 8), seed=1)
print(best.F[0] < 0.1)
""",
    "sktime": """
import warnings
from sktime.datasets import load_airline
from sktime.forecasting.model_evaluation import evaluate
from sktime.forecasting.naive import NaiveForecaster
from sktime.split import ExpandingWindowSplitter

warnings.simplefilter("ignore")
windows = ExpandingWindowSplitter(fh=[1, 2, 3], initial_window=84, step_length=12)
result = evaluate(
    NaiveForecaster(strategy="mean", sp=3), windows, load_airline(), backend="ray",
    backend_params={"ray_remote_args": {"num_cpus": 1}},
)
print(len(result), float(result["test_MeanAbsolutePercentageError"].mean()) < 0.5)
""",
    "unidist": """
import unidist, unidist.config
unidist.config.Backend.put("Ray")
unidist.init()

@unidist.remote
def square(x):
    return x * x

@unidist.remote
class Counter:
    def __init__(self):
        self.n = 0
    def add(self):
        self.n += 1
        return self.n

counter = Counter.remote()
squares = unidist.get([square.remote(i) for i in range(5)])
print(squares, unidist.get([counter.add.remote() for _ in range(3)]), unidist.num_cpus() > 0)
""",
}
LAST_LINES = {
    "cubed": "True",
    "daft": "True [0, 2, 4]",
    "datatrove": "4 {10}",
    "hamilton": "{'a': 4, 'b': 8, 'c': 12}",
    "joblib": "40425 [1, 2]",
    "modin": "(20000, 3)",
    "pymoo": "True",
    "sktime": "5 True",
    "unidist": "[0, 1, 4, 9, 16] [1, 2, 3] True",
}


PYTHON = os.environ.get("THIRD_PARTY_PYTHON", sys.executable)


@pytest.mark.slow
@pytest.mark.parametrize("library", PROGRAMS)
def test_a_library_for_ray_runs(library: str, session_root: Path, tmp_path: Path) -> None:
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({library!r}) is None)"
    if subprocess.run([PYTHON, "-c", look], check=False).returncode:
        pytest.skip(f"{library} is not installed: pip install -e '.[third-party]'")
    program = tmp_path / "program.py"
    program.write_text(PROGRAMS[library])
    done = subprocess.run(
        [PYTHON, "-m", "nbray.compat", str(program)], capture_output=True, text=True,
        cwd=tmp_path, check=False, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1:] == [LAST_LINES[library]], done.stderr
