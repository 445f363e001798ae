"""The study: a grid of encoders, intermediate training, targets and seeds, run cell by cell, ending in tables.

spec      the study file, strictly read
plan      its cells: what each runs, from what it starts, and what decides its result
cost      steps, tokens and time of what is still to do
record    which cell is done, and with what settings
launch    the command each step of a cell is
run       cells one after another, failures apart
slurm     the same as a script of Slurm arrays
results   scores of all cells, their means and standard deviations, differences to the baseline
tables    terminal, Markdown, CSV and LaTeX
plot      the heat map
command   all of it, in order
"""
