"""Results of runs in, pictures, tables and pages out."""
