"""Kills, and the laws that hold in spite of them: `python -m tests.chaos`, or the quick cells in `make test`.

A cell is a fault during a moment. `laws` says what must hold, `faults` what is struck and how, `moments` what is
under way and how its middle is seen from outside; `cells` names the cells that make sense, `runner` walks them.
"""
