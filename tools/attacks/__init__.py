"""What tools/fuzz.py attacks with: a module for each kind, with `run(count, rng) -> {outcome: how often}`.

A module's `BAD` names the outcomes that must not happen; the first line of its docstring says what it does.
"""
