"""A diffusion planner and an executor: how the planner is taught, and whose fault an error is."""
