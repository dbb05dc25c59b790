"""The paper's figures and tables with this package's operation in the networks: `python -m experiments --help`."""
