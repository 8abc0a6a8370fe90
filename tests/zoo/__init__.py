"""Networks in the styles people use, each with what a correct tracer finds in it."""
