"""The mains of training, evaluation and archives: what the command line and `examples/` call.

May import all but `integrations`.
"""
