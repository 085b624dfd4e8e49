"""Show numbers to people: tables for terminals and notebooks, and progress."""
