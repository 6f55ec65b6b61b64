"""Pure init / apply pairs of the parts that methods own."""
