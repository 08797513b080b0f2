"""Several processes that run parts of one model together, by MPI."""
