"""A wheel as a release has it, built from the source distribution and tried where there is no compiler: `make wheel`.

Leaves both in `dist/`. What a release needs besides, other Pythons and machines, is cibuildwheel's: pyproject.toml.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = "A lovely film.\nThe plot is thin and the end is worse.\n"
EXPECTED = ["positive", "negative"]


def run(*words: str | Path, **options: object) -> str:
    """The output of a command that must end well."""
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, **options
    )  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return str(done.stdout)


def main() -> None:
    wheels = ROOT / "dist"
    shutil.rmtree(wheels, ignore_errors=True)
    required = os.environ | {"SQUEEZEBERT_FAST_NATIVE": "require"}
    with tempfile.TemporaryDirectory() as temporary:
        built, clean = Path(temporary, "built"), Path(temporary, "venv")
        run(sys.executable, "-m", "build", "--outdir", built, ROOT, env=required)  # the wheel from the sdist
        (wheel,) = built.glob("*.whl")
        print(run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", wheels, wheel))
        shutil.copy(*built.glob("*.tar.gz"), wheels)
        print(run(sys.executable, "-m", "twine", "check", "--strict", *wheels.iterdir()))

        venv.create(clean, with_pip=True)
        (wheel,) = wheels.glob("*.whl")
        run(clean / "bin/pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel)
        alone = {"PATH": str(clean / "bin"), "HOME": temporary}  # no compiler, and nothing of this checkout
        program, text = clean / "bin/squeezebert-fast", Path(temporary, "texts.txt")
        print(run(program, "doctor", env=alone, cwd=temporary))
        text.write_text(TEXT, encoding="utf-8")
        answers = run(program, "predict", text, "--format", "csv", env=alone, cwd=temporary)
        labels = [line.split(",")[1] for line in answers.splitlines()[1:]]
        if labels != EXPECTED:
            sys.exit(f"predict of the installed wheel answers {labels}, expected {EXPECTED}")
    print(
        *(
            f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.1f} MB"
            for path in sorted(wheels.iterdir())
        ),
        sep="\n",
    )


if __name__ == "__main__":
    main()
