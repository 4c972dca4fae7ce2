"""Print what an extra of the installed package requires, for `pip install -r`: python .ci/requirements_of.py EXTRA

`pip install -e '.[EXTRA]'` would compile the native module once more, which takes a minute.
"""

import sys
from importlib.metadata import requires

from packaging.requirements import Requirement

for requirement in map(Requirement, requires("squeezebert-fast") or ()):
    marker, requirement.marker = requirement.marker, None
    if marker and not marker.evaluate({"extra": ""}) and marker.evaluate({"extra": sys.argv[1]}):
        print(requirement)
