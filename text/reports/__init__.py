"""Pages about runs, data sets, evaluations and loops."""
