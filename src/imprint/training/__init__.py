"""A plan, the loop that carries it out with its optimisers and schedules, checkpoints, and calibration afterwards."""
