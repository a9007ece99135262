"""Run the command with ``python -m hpchub.cli``."""

import sys

from hpchub.cli.main import main

sys.exit(main())
