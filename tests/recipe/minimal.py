"""The smallest recipe, as tables and as a file."""

import tomllib

TOML = """
[run]
name = "small"
[data]
source = "mni152"
[network]
name = "unrolled_pgd"
[network.prior]
name = "dncnn"
filters = [16, 8]
[training]
epochs = 2
[search]
latency_budget = 0.5
[finetuning]
strategy = "school"
epochs = 2
"""
MINIMAL = tomllib.loads(TOML)
