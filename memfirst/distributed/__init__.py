"""Several processes that run parts of one model together, by MPI. It imports errors and the graph's types alone."""
