"""Names: the cache, files, name servers that behave and that do not."""
