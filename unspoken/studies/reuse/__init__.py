"""A pipeline read densely and from pools of caches."""
