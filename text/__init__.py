"""Dense passage retrieval in TorchText's style: data, transforms, encoders, training.

Importing this package alone loads no torch; import the part that you need.
"""

__version__ = "0.1.0"
