"""InputSpec, and what brings any image into it."""
