"""The folder of a training run, and the loop over several runs."""
