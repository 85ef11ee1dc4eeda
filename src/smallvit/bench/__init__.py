"""How fast this machine is: a recipe's training step and what surrounds it, measured in one process, in turns."""
