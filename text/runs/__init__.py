"""Training run folders, and the loop over several training runs."""
