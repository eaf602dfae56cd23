"""Workers of one thread each: as many of them as there are processors do not wait for one another."""

# Read by the libraries when they are loaded, so it must be in a worker's environment before it starts.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
