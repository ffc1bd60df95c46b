"""Parts of the measurements of experts: counts of choices, token ids and their experts, and the experts' weights."""
