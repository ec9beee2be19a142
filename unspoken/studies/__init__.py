"""Studies: what can be measured of agents and their messages, one folder each."""
