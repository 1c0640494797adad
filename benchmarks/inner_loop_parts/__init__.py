"""Parts of ``benchmarks/inner_loop.py``: the data, the sides that are compared, the report."""
