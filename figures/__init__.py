"""Tables, figures and pages that are published, and the code that makes them from the record."""
