"""Parts of the report page: its columns of data, its head, its figures, and formulas as MathML."""
