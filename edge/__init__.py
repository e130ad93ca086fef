"""The device: generation loop, uncertainty, policies, the link to the cloud."""
