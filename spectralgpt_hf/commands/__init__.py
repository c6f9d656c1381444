"""The main functions of training, evaluation and archives, which the command line and `examples/` call.

May import all but `integrations`.
"""
