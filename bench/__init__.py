"""The benchmarks of the README, for anyone to run: make bench, or python -m bench accuracy training latency."""
