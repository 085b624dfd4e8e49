import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"
SAYS = {
    "evaluate.sh": ["Plan\n", "top_5_accuracy ", "accuracy from JSON: 0.7"],
    "zarr_dump.py": ["Plan\n", "perplexity ", "600,000 of 600,000 rows"],
    "cluster.py": ["the same bits"],
    "error_bars.py": [
        "rows taken as independent",
        "Worst rows by crossentropy",
        "12 clusters, which are few",
        "By position",
    ],
    "language_model.py": ["MB of logits of ", "39 clusters", "By uncertainty", "per sequence"],
    "keras_metric.py": ["of two shards", "worst rows"],
}


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == set(SAYS)


@pytest.mark.parametrize("name", sorted(SAYS))
def test_examples(name, tmp_path):
    interpreter = ["sh"] if name.endswith(".sh") else [sys.executable, "-W", "error"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [*interpreter, str(EXAMPLES / name)],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr  # not empty: on a busy machine Dask's log says that it had to wait
    for line in SAYS[name]:
        assert line in done.stdout
    assert list(tmp_path.iterdir()) == []
