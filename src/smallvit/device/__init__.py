"""Where and how arithmetic is done: device, precision, compilation, attention implementation."""
