"""Ways to run the same function on many items: in this process, or in many that may die."""
