"""Dense passage retrieval: data, transforms, encoders, training, search and evaluation.

Importing this package does not load PyTorch. Import the subpackages that you need.
"""

__version__ = "0.1.0"
