"""The kinds of run: settings, plan, cells, record."""
