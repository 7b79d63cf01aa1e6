"""What ``whimbrel plot`` is made of: `records` reads the file, `trace` what it tells of paths, `drawing` draws that."""
