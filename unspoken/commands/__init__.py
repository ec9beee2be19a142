"""The verbs of the command line, a module for those that belong together.

Heavy imports are inside the functions, so that the command line starts at once.
"""
