"""Fast paths behind plain functions, each with a reference that is its oracle."""
