"""Writers: results to bytes and text."""
