"""uhlm-edge: a small model on the device that asks a large model in the cloud only when it is unsure."""

__version__ = "0.1.0"
