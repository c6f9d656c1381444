"""Speed and memory: `python -m benchmarks` runs the suite, the scripts beside it measure what models learn."""
