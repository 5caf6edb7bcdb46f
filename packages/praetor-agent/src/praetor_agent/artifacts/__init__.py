"""What processes are made of: fetched, verified and kept under the name of their content; one module a source."""
