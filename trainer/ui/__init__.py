"""How a person sees a run: the live terminal view and the tables of the command line."""
