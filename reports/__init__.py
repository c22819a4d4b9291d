"""Reports: from a run record to tables, pictures and one page."""
