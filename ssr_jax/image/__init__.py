"""Pure functions on image arrays; `io` reads and writes files."""
