"""What all parts share and what depends on nothing: values, argument checks, timer queue, addresses."""
