"""Tensors in, tensors out: the one engine that all commands share. No paths, no printing."""
