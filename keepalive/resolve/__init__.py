"""Names: the table of look-ups, and the resolvers that answer them."""
