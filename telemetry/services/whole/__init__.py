"""Everything that a tenant owns, as one ZIP: table after table, in pieces, in little memory."""
