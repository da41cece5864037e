"""`python -m prune_cli`: the command line where there is no script, as for torchrun."""

import sys

from prune_cli.app import main

sys.exit(main())
