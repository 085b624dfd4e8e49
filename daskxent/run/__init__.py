"""Cut the rows into parts, evaluate each, and merge what they give: on threads, on a cluster, or as a Dask graph."""
