"""uhlm-edge: a small model on the device that asks a large one in the cloud only when unsure."""

__version__ = "0.1.0"
