"""The API against its document by schemathesis: `make api-fuzz SECONDS=1200`, with a list of accepted findings."""
