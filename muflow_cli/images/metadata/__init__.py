"""What stands in an image file beside its pixels, read within fixed bounds of time and memory."""
