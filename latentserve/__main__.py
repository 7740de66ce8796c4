"""`python -m latentserve COMMAND`: the command `latentserve`."""

import sys

from latentserve.cli.main import main

sys.exit(main())
