"""`python -m export RUN --to models/`: makes a bundle of a run.

`python -m export import SOURCE --data SPEC --to models/` makes one of an encoder from elsewhere, and
`python -m export evaluate|ood BUNDLE` and `python -m export compare A B` measure bundles.
"""

from __future__ import annotations

import sys

from export.commands import compare, evaluate, export, imports, ood
from training.options import say_any_name
from training.running.threads import keep_to_quota

COMMANDS = {"compare": compare.main, "evaluate": evaluate.main, "import": imports.main, "ood": ood.main}
"""Commands by the first argument; any other first argument is a run to export."""


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    say_any_name()
    keep_to_quota()
    if arguments and arguments[0] in COMMANDS:
        return COMMANDS[arguments[0]](arguments[1:])
    return export.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
