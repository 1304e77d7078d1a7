"""How an address is reached: which one is tried when, which one failed lately, what its socket is set to."""
