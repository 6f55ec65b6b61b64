"""Plans become runs: compiled programs, inputs, evaluation, phases, reports."""
