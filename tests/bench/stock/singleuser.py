#!/opt/hpchub/notebook/current/bin/python
"""Run batchspawner's own wrapper in the cluster's notebook environment, which lacks batchspawner."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from batchspawner.singleuser import main

main()
