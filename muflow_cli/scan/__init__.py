"""`scan`: inputs -> results in every format, resumable."""
