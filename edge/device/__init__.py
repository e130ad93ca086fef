"""What the device tells of itself: power, heat, load."""
