"""Forms of training data that other tools write: reading them as DPR rows, and writing DPR rows in their form."""
