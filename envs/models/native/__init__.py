"""Parts of the inner loop in C."""
