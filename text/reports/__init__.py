"""Reports on runs, data sets, evaluations and loops."""
