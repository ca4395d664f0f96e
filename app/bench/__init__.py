"""`modernbert bench <suite>`: ours beside its peers in one run; a suite is a module with `main(cfg)`.

Every figure is a ratio of sides that took turns on one machine (measure.py): a speed alone says more about
the machine and its other guests than about the code.
"""
