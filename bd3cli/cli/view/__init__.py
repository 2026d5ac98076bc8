"""Terminal output: tables, charts, live panels and progress bars."""
