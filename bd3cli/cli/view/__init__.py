"""What people see: tables, charts, live panels, progress."""
