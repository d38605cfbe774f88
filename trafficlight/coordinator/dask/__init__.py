"""A session over many machines: Dask places whole cases, each Dask worker has a lab that runs them."""
