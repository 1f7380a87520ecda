"""Options of factories: read from signatures and docstrings, so that no list of them exists."""

from fedjax_kd.options.annotations import plain_type
from fedjax_kd.options.ranges import check_finite, check_value
from fedjax_kd.options.registries import check_choice, named, nearest
from fedjax_kd.options.signatures import (
    FACTS,
    REQUIRED,
    Option,
    check_names,
    check_options,
    checks_options,
    extends,
    fixed_local,
    limits,
    network_of,
    options,
    options_of,
)

__all__ = [
    "FACTS",
    "REQUIRED",
    "Option",
    "check_choice",
    "check_finite",
    "check_names",
    "check_options",
    "check_value",
    "checks_options",
    "extends",
    "fixed_local",
    "limits",
    "named",
    "nearest",
    "network_of",
    "options",
    "options_of",
    "plain_type",
]
