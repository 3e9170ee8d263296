"""The search: its settings and steps, its finish, its sweeps and fronts."""
