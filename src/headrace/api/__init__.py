"""The HTTP side: each dialect's routes, bodies and errors. Translates, and generates nothing."""
