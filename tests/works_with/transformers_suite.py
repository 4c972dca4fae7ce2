"""transformers' own tests of its models, each model patched as soon as it is made: what passes unpatched must pass.

    python tests/works_with/transformers_suite.py CHECKOUT [bert roberta ...]

CHECKOUT: transformers' repository at the version that is installed, whose wheel has no tests. These need the package
parameterized, and go without the network.
Each model's tests run twice, unpatched and patched; what comes out otherwise is printed, and makes the exit code 1.
The same file is the plugin of these runs: `pytest -p transformers_suite`, patching if PATCHED is set.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MODELS = ("bert", "electra", "roberta", "xlm_roberta", "camembert", "distilbert")
PATCHED, OUTCOMES = "SQUEEZEBERT_FAST_SUITE_PATCHED", "SQUEEZEBERT_FAST_SUITE_OUTCOMES"

_outcomes: dict[str, str] = {}


def pytest_configure(config: Any) -> None:
    """Patch every model at the end of its construction."""
    if not os.environ.get(PATCHED):
        return
    from transformers import PreTrainedModel

    import squeezebert_fast

    own = PreTrainedModel.post_init

    def post_init(self: Any) -> None:
        own(self)
        try:
            squeezebert_fast.patch(self, backend="cpu")
        except squeezebert_fast.ArgumentError as error:
            if "without an encoder" not in str(error):
                raise

    PreTrainedModel.post_init = post_init


def pytest_runtest_logreport(report: Any) -> None:
    """Remember what came of each test."""
    if report.when == "call" or report.outcome != "passed":
        _outcomes[report.nodeid] = report.outcome


def pytest_sessionfinish(session: Any) -> None:
    """Leave it to the process that compares."""
    if not hasattr(session.config, "workerinput"):
        Path(os.environ[OUTCOMES]).write_text(json.dumps(_outcomes))


def outcomes(checkout: Path, model: str, patched: bool) -> dict[str, str]:
    """What comes of the tests of a model, by name."""
    here = Path(__file__).resolve().parent
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        paths = [str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join(paths),
            OUTCOMES: file.name,
        }
        environment |= {PATCHED: "1"} if patched else {}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "transformers_suite", "-p", "no:cacheprovider"]
        command += ["-n", "2", "--no-header", "--tb=no", f"tests/models/{model}/test_modeling_{model}.py"]
        nothing = subprocess.DEVNULL
        subprocess.run(command, cwd=checkout, env=environment, stdin=nothing, stdout=nothing, check=False)
        found: dict[str, str] = json.loads(Path(file.name).read_text() or "{}")
    if not found:
        raise SystemExit(f"no tests ran: {' '.join(command)}")
    return found


def main(checkout: str, *models: str) -> int:
    """Compare; the number of models whose tests come out otherwise."""
    worse = 0
    for model in models or MODELS:
        plain, patched = (outcomes(Path(checkout), model, patched) for patched in (False, True))
        passed = sum(outcome == "passed" for outcome in plain.values())
        print(f"{model}: {passed} of {len(plain)} pass unpatched", flush=True)
        others = [name for name in plain | patched if plain.get(name) != patched.get(name)]
        for name in others:
            print(f"  {name}: {plain.get(name)}, patched {patched.get(name)}", flush=True)
        worse += bool(others)
    return worse


if __name__ == "__main__":
    sys.exit(1 if main(*sys.argv[1:]) else 0)
