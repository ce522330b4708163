"""From bytes on a disk, in an archive or at an address to 8-bit images and their views."""
