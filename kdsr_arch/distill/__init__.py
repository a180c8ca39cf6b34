"""Teaching one network by another: taps, adapters, weights, terms and the task that joins them."""
