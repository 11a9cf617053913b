"""What is measured for every commit. ``quick`` is the set for a pull request; all modules together are the full set.

Lower is better everywhere. A ``slowdown`` is a step's time over the time of the limit, a loop with the same reads and
writes and no arithmetic, sampled in turn in one process: it is steady on a machine whose times are not.
"""

import os
from pathlib import Path

# asv reinstalls commits into one environment, and numba's cache may outlive a reinstallation: each commit has its own.
if "ASV_COMMIT" in os.environ:
    os.environ["NUMBA_CACHE_DIR"] = str(Path(os.environ["ASV_ENV_DIR"], "numba", os.environ["ASV_COMMIT"]))
