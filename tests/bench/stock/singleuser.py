#!/opt/hpchub/notebook/current/bin/python
"""batchspawner's own wrapper, with the cluster's notebook environment, which comes without batchspawner."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from batchspawner.singleuser import main

main()
