"""Which packages go into a wheel; everything else of the project stands in pyproject.toml.

`service`, `training` and `export` are general names. In a checkout they stand at the top; a wheel keeps them in
`latentserve/rooms`, and the command `latentserve` finds them there (docs/adr/0022-one-command.md).
"""

from setuptools import find_packages, setup

ROOMS = ("service", "training", "export")

setup(
    packages=[
        *find_packages(include=["latentserve", "latentserve.*"]),
        *(f"latentserve.rooms.{name}" for room in ROOMS for name in find_packages(include=[room, f"{room}.*"])),
    ],
    package_dir={f"latentserve.rooms.{room}": room for room in ROOMS},
)
