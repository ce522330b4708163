"""From disk to uint8 pictures."""
