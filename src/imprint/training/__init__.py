"""A plan, the loop that carries it out, and what is settled after it."""
