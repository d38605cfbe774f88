"""Where homeservers come from: *recipes* say what runs, *providers* say where."""
