"""Floor 2: rows that existed are embedded and written, page lane by page lane; rows written meanwhile follow."""
