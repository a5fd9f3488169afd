"""What this machine has and what a run will take on it, measured before it starts.

In: a recipe. Out: steps, hours, memory, disk. Order: doctor (the machine), probe (a few passes of the recipe's model
with random weights), estimate (a probe scaled to the whole run).
"""
